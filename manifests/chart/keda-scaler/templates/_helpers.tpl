{{/* Name of the chart, as a label. */}}
{{- define "keda-scaler.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of the objects. 52 characters leave room for what some append. */}}
{{- define "keda-scaler.fullname" -}}
{{- $name := include "keda-scaler.name" . }}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $whole .Values.fullnameOverride | replace "." "-" | trunc 52 | trimSuffix "-" }}
{{- end }}

{{/* What selects the pods of a component. It must not change: Deployments refuse that. Takes (list $ COMPONENT). */}}
{{- define "keda-scaler.selectorLabels" -}}
app.kubernetes.io/name: {{ include "keda-scaler.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of an object. Takes (list $ COMPONENT). */}}
{{- define "keda-scaler.labels" -}}
{{- $ := index . 0 -}}
{{ include "keda-scaler.selectorLabels" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: keda-scaler
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "keda-scaler.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}
{{- else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end }}
{{- end }}
{{- end }}

{{- define "keda-scaler.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "keda-scaler.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* The name that KEDA calls, and that the certificate is for. */}}
{{- define "keda-scaler.host" -}}
{{ include "keda-scaler.fullname" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{/* "true" where the API server is asked. */}}
{{- define "keda-scaler.readsServices" -}}
{{- if or .Values.services.allNamespaces .Values.services.namespaces }}true{{ end }}
{{- end }}

{{/* The Secret with the server's certificate; empty: plaintext. */}}
{{- define "keda-scaler.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled }}{{ include "keda-scaler.fullname" . }}-tls{{ else }}{{ .Values.tls.secret }}{{ end }}
{{- end }}

{{/* What every container of ours may do: nothing but run. */}}
{{- define "keda-scaler.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "keda-scaler.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532  # reads the Secrets
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The file of settings: what is taken up while the scaler runs. All else is a flag. */}}
{{- define "keda-scaler.settings" -}}
{{- $file := dict }}
{{- with .Values.allowAddress }}{{ $_ := set $file "allow_address" . }}{{ end }}
{{- $servers := dict }}
{{- range $name, $given := .Values.prometheus }}
{{- $folder := printf "/etc/keda-scaler/secrets/prometheus/%s" $name }}
{{- $server := dict "url" $given.url }}
{{- if $given.bearerToken }}{{ $_ := set $server "bearer_token_file" (printf "%s/token" $folder) }}{{ end }}
{{- if $given.username }}{{ $_ := set $server "username" $given.username }}{{ end }}
{{- if $given.password }}{{ $_ := set $server "password_file" (printf "%s/password" $folder) }}{{ end }}
{{- if $given.clientSecret }}
{{- $_ := set $server "cert_file" (printf "%s/tls.crt" $folder) }}
{{- $_ := set $server "key_file" (printf "%s/tls.key" $folder) }}
{{- end }}
{{- if $given.ca }}{{ $_ := set $server "ca_file" (printf "%s/ca.crt" $folder) }}{{ end }}
{{- $_ := set $servers $name $server }}
{{- end }}
{{- if $servers }}{{ $_ := set $file "prometheus" $servers }}{{ end }}
{{- $defaults := dict }}
{{- range $key, $value := .Values.defaults }}{{ $_ := set $defaults $key (toString $value) }}{{ end }}
{{- if $defaults }}{{ $_ := set $file "defaults" $defaults }}{{ end }}
{{- regexReplaceAll "(?m)^ +" (toToml $file) "" | trim }}
{{- end }}

{{/* Every Secret that the scaler reads, as sources of one volume. A file per key, so that new versions arrive. */}}
{{- define "keda-scaler.secrets" -}}
{{- with include "keda-scaler.tlsSecret" . }}
- secret:
    name: {{ . }}
    items:
      - {key: tls.crt, path: tls/tls.crt}
      - {key: tls.key, path: tls/tls.key}
{{- end }}
{{- include "keda-scaler.secret" (list .Values.tls.clientCA "tls/client-ca.crt") }}
{{- include "keda-scaler.secret" (list .Values.http.tokens "http-tokens") }}
{{- include "keda-scaler.secret" (list .Values.reports.tokens "report-tokens") }}
{{- include "keda-scaler.secret" (list .Values.reports.redis.password "redis/password") }}
{{- include "keda-scaler.secret" (list .Values.reports.redis.ca "redis/ca.crt") }}
{{- range $name, $server := .Values.prometheus }}
{{- include "keda-scaler.secret" (list $server.bearerToken (printf "prometheus/%s/token" $name)) }}
{{- include "keda-scaler.secret" (list $server.password (printf "prometheus/%s/password" $name)) }}
{{- with $server.clientSecret }}
- secret:
    name: {{ . }}
    items:
      - {key: tls.crt, path: prometheus/{{ $name }}/tls.crt}
      - {key: tls.key, path: prometheus/{{ $name }}/tls.key}
{{- end }}
{{- include "keda-scaler.secret" (list $server.ca (printf "prometheus/%s/ca.crt" $name)) }}
{{- end }}
{{- end }}

{{/* One of them; nothing where none is named. Takes (list {secret, key} PATH). */}}
{{- define "keda-scaler.secret" -}}
{{- $from := index . 0 | default dict }}
{{- if $from.secret }}
- secret:
    name: {{ $from.secret }}
    items:
      - {key: {{ $from.key | quote }}, path: {{ index . 1 }}}
{{- end }}
{{- end }}
