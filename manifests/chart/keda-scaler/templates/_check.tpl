{{/* Fails with everything that cannot work, all at once. What may be meant is warned of in NOTES.txt. */}}
{{- define "keda-scaler.check" -}}
{{- $wrong := list }}
{{- with .Values }}
{{- if and .services.allNamespaces .services.namespaces }}
{{- $wrong = append $wrong "services: give namespaces or allNamespaces, not both" }}
{{- end }}
{{- if and (include "keda-scaler.readsServices" $) (not .serviceAccount.create) (not .serviceAccount.name) }}
{{- $wrong = append $wrong "serviceAccount: services needs one of its own; set serviceAccount.create, or serviceAccount.name to yours" }}
{{- end }}
{{- range $name, $server := .prometheus }}
{{- if ne (empty $server.username) (empty $server.password) }}
{{- $wrong = append $wrong (printf "prometheus.%s: username and password go together" $name) }}
{{- end }}
{{- if and $server.username $server.bearerToken }}
{{- $wrong = append $wrong (printf "prometheus.%s: give bearerToken or username, not both" $name) }}
{{- end }}
{{- end }}
{{- with .reports }}
{{- if and .tokens.secret (not .redis.url) (gt (int $.Values.replicaCount) 1) }}
{{- $wrong = append $wrong (printf "reports: %d replicas share reports through Redis alone; set reports.redis.url, or replicaCount to 1" (int $.Values.replicaCount)) }}
{{- end }}
{{- if and .redis.url (not .tokens.secret) }}
{{- $wrong = append $wrong "reports.redis.url: only reports are kept there; set reports.tokens.secret" }}
{{- end }}
{{- if and (or .redis.password.secret .redis.ca.secret) (not .redis.url) }}
{{- $wrong = append $wrong "reports.redis: password and ca need url" }}
{{- end }}
{{- end }}
{{- if and .http.tokens.secret .http.open }}
{{- $wrong = append $wrong "http: give tokens or open, not both" }}
{{- end }}
{{- with .tls }}
{{- if and .secret .certManager.enabled }}
{{- $wrong = append $wrong "tls: give secret or certManager, not both" }}
{{- end }}
{{- if and .certManager.enabled (not .certManager.issuerRef.name) }}
{{- $wrong = append $wrong "tls.certManager: enabled needs issuerRef.name" }}
{{- end }}
{{- if and .clientCA.secret (not (include "keda-scaler.tlsSecret" $)) }}
{{- $wrong = append $wrong "tls.clientCA: needs tls.secret or tls.certManager" }}
{{- end }}
{{- if and .testSecret (not .clientCA.secret) }}
{{- $wrong = append $wrong "tls.testSecret: only with tls.clientCA" }}
{{- end }}
{{- end }}
{{- end }}
{{- with $wrong }}
{{- fail (printf "\n- %s" (join "\n- " .)) }}
{{- end }}
{{- end }}
