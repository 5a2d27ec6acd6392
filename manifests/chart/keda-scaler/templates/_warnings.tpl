{{/* What works, and may not be what was meant: lines for NOTES.txt. */}}
{{- define "keda-scaler.warnings" -}}
{{- $ := . }}
{{- with .Values }}
{{- if not (or (include "keda-scaler.readsServices" $) .prometheus .allowAddress .reports.tokens.secret .extraArgs) }}
- Nothing can be read, so every trigger is refused or unknown. Set services.namespaces, prometheus, allowAddress or
  reports.tokens.secret.
{{- end }}
{{- if le (int .replicaCount) 1 }}
- {{ int .replicaCount }} replica: while it moves to another node KEDA gets no answer, and no model wakes
  {{- if .podDisruptionBudget.enabled }}; the PodDisruptionBudget keeps nothing{{ end }}.
{{- end }}
{{- if and (gt (int .replicaCount) 1) (not .service.headless) }}
- service.headless is false: KEDA stays with one of {{ int .replicaCount }} replicas.
{{- end }}
{{- if and (gt (int .replicaCount) 1) (eq (int .maxConnectionAgeSeconds) 0) }}
- maxConnectionAgeSeconds is 0: KEDA asks a replica that is new only after one that it knows has gone.
{{- end }}
{{- if not .networkPolicy.enabled }}
- Everyone in the cluster may call gRPC{{ if not .tls.clientCA.secret }}, without a certificate,{{ end }} and HTTP. Set networkPolicy.enabled
  {{- if not .tls.clientCA.secret }} or tls.clientCA{{ end }}.
{{- else }}
{{- if and (or .allowAddress .reports.redis.url) (not .networkPolicy.extraEgress) }}
- networkPolicy lets out to no address of {{ if .allowAddress }}allowAddress{{ else }}reports.redis.url{{ end }}. Set networkPolicy.extraEgress.
{{- end }}
{{- if and .prometheus (not .networkPolicy.prometheus) (not .networkPolicy.extraEgress) }}
- networkPolicy lets out to no Prometheus. Set networkPolicy.prometheus or networkPolicy.extraEgress.
{{- end }}
{{- if and .reports.tokens.secret (not .networkPolicy.http) }}
- networkPolicy lets in no one who reports. Set networkPolicy.http.
{{- end }}
{{- end }}
{{- if and .reports.tokens.secret $.Values.tls.clientCA.secret }}
- Reports come over plain HTTP, whatever tls says.
{{- end }}
{{- if and .tls.clientCA.secret (not .tls.testSecret) }}
- There is no helm test: with tls.clientCA it takes tls.testSecret.
{{- end }}
{{- if and .exporter.enabled (not .monitoring.podMonitor.enabled) }}
- Nothing here has Prometheus scrape the exporter. Set monitoring.podMonitor.enabled, or scrape its port 9401.
{{- end }}
{{- if and .monitoring.rules.enabled (not .monitoring.podMonitor.enabled) }}
- The alerts need metrics, and nothing here has Prometheus scrape them. Set monitoring.podMonitor.enabled.
{{- end }}
{{- end }}
{{- end }}
