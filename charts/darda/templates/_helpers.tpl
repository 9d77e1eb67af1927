{{/* The name that everything begins with. Short enough for the longest ending. */}}
{{- define "darda.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What picks the pods of a component: (list . "chat-service"). Never changes. */}}
{{- define "darda.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object: (list . "chat-service"). */}}
{{- define "darda.labels" -}}
{{- $root := index . 0 -}}
{{ include "darda.selector" . }}
app.kubernetes.io/part-of: darda
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{/* One of our images: (list . .Values.chatService.image). */}}
{{- define "darda.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.image.registry -}}{{ trimSuffix "/" . }}/{{- end -}}
{{- $image.repository -}}
{{- if $image.digest -}}@{{ $image.digest }}{{- else -}}:{{ $image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* An image of others: .Values.redis.image. */}}
{{- define "darda.serverImage" -}}
{{- .repository -}}{{- if .digest -}}@{{ .digest }}{{- else -}}:{{ .tag }}{{- end -}}
{{- end -}}

{{- define "darda.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What the level "restricted" of Pod Security asks for, and more: (65532). */}}
{{- define "darda.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "darda.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where pods may go: (list . "chat-service" .Values.chatService). */}}
{{- define "darda.placement" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $isProgram := has (index . 1) (list "chat-service" "history-service" "persistence-worker") }}
{{- if or $isProgram $values.tolerations }}
tolerations:
  {{- with $values.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if $isProgram }}
  {{- range list "not-ready" "unreachable" }}
  - {key: node.kubernetes.io/{{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ $root.Values.nodeLossSeconds | int }}}
  {{- end }}
  {{- end }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: {{ $root.Values.topologySpread.whenUnsatisfiable }}
    # A node that is being emptied does not count.
    nodeTaintsPolicy: Honor
    labelSelector:
      matchLabels: {{- include "darda.selector" (list $root (index . 1)) | nindent 8 }}
    {{- if $isProgram }}
    matchLabelKeys: [pod-template-hash]
    {{- end }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "darda.selector" (list $root (index . 1)) | nindent 8 }}
{{- end }}
{{- end -}}

{{/* The Secret with the passwords and URLs of what is bundled. */}}
{{- define "darda.secretName" -}}
{{- .Values.existingSecret | default (include "darda.fullname" .) -}}
{{- end -}}

{{/* Where the URL of a server is: (list . "redis" "redis-url"), answers {name, key} as YAML. */}}
{{- define "darda.urlSecret" -}}
{{- $root := index . 0 -}}
{{- $server := index $root.Values (index . 1) -}}
{{- if and (not $server.bundled) $server.external.existingSecret.name -}}
name: {{ $server.external.existingSecret.name }}
key: {{ $server.external.existingSecret.key }}
{{- else -}}
name: {{ include "darda.secretName" $root }}
key: {{ index . 2 }}
{{- end -}}
{{- end -}}

{{/* The volume with the URLs of the servers and the authorities that are trusted for them. */}}
{{- define "darda.serversVolume" -}}
{{- $root := . -}}
- name: servers
  projected:
    # Read through the group of the pod.
    defaultMode: 0440
    sources:
      {{- range $server, $key := dict "redis" "redis-url" "rabbitmq" "rabbitmq-url" "mongodb" "mongodb-uri" }}
      {{- $secret := include "darda.urlSecret" (list $root $server $key) | fromYaml }}
      - secret:
          name: {{ $secret.name }}
          items: [{key: {{ $secret.key }}, path: {{ $key }}}]
      {{- end }}
      {{- range $server := list "mongodb" "rabbitmq" "redis" }}
      {{- $tls := (index $root.Values $server).tls }}
      {{- if and $tls.enabled $tls.secretName }}
      - secret:
          name: {{ $tls.secretName }}
          items: [{key: ca.crt, path: {{ $server }}-ca.crt}]
      {{- end }}
      {{- end }}
      {{- with $root.Values.monitoring.traces }}
      {{- if and .endpoint .caSecretName }}
      - secret:
          name: {{ .caSecretName }}
          items: [{key: ca.crt, path: otlp-ca.crt}]
      {{- end }}
      {{- end }}
{{- end -}}

{{- define "darda.serversMount" -}}
- {name: servers, mountPath: /etc/darda/servers, readOnly: true}
{{- end -}}

{{/*
Passwords, made once: those of the Secret in the cluster if there is one. All templates of a rendering share .Values, so the
first that asks makes them for the others.
*/}}
{{- define "darda.passwords" -}}
{{- if not (hasKey .Values "_passwords") -}}
{{- $old := dict -}}
{{- with lookup "v1" "Secret" .Release.Namespace (include "darda.fullname" .) -}}
{{- $old = .data | default dict -}}
{{- end -}}
{{- $new := dict -}}
{{- range $key, $length := dict "redis-password" 32 "rabbitmq-password" 32 "rabbitmq-admin-password" 32 "rabbitmq-erlang-cookie" 48 "mongodb-password" 32 "mongodb-keyfile" 512 -}}
{{- $_ := set $new $key (hasKey $old $key | ternary (index $old $key | default "" | b64dec) (randAlphaNum (int $length))) -}}
{{- end -}}
{{- $_ := set .Values "_passwords" $new -}}
{{- end -}}
{{- toYaml .Values._passwords -}}
{{- end -}}

{{/* The members of the replica set, with ports, separated by commas. */}}
{{- define "darda.mongodbMembers" -}}
{{- $name := printf "%s-mongodb" (include "darda.fullname" .) -}}
{{- $members := list -}}
{{- range $i := until (int .Values.mongodb.replicas) -}}
{{- $members = append $members (printf "%s-%d.%s:27017" $name $i $name) -}}
{{- end -}}
{{- join "," $members -}}
{{- end -}}

{{/* Everything in the Secret, as YAML. */}}
{{- define "darda.secretData" -}}
{{- $name := include "darda.fullname" . -}}
{{- $passwords := include "darda.passwords" . | fromYaml -}}
{{- if .Values.redis.bundled }}
redis-password: {{ index $passwords "redis-password" | quote }}
redis-url: {{ .Values.redis.tls.enabled | ternary "rediss" "redis" }}://darda:{{ index $passwords "redis-password" }}@{{ $name }}-redis:6379
{{- else if not .Values.redis.external.existingSecret.name }}
redis-url: {{ .Values.redis.external.url | quote }}
{{- end }}
{{- if .Values.rabbitmq.bundled }}
rabbitmq-password: {{ index $passwords "rabbitmq-password" | quote }}
rabbitmq-admin-password: {{ index $passwords "rabbitmq-admin-password" | quote }}
rabbitmq-erlang-cookie: {{ index $passwords "rabbitmq-erlang-cookie" | quote }}
rabbitmq-url: {{ .Values.rabbitmq.tls.enabled | ternary "amqps" "amqp" }}://darda:{{ index $passwords "rabbitmq-password" }}@{{ $name }}-rabbitmq:{{ .Values.rabbitmq.tls.enabled | ternary 5671 5672 }}/darda
rabbitmq-admin-url: {{ .Values.rabbitmq.tls.enabled | ternary "https" "http" }}://admin:{{ index $passwords "rabbitmq-admin-password" }}@{{ $name }}-rabbitmq:{{ .Values.rabbitmq.tls.enabled | ternary 15671 15672 }}
{{- else if not .Values.rabbitmq.external.existingSecret.name }}
rabbitmq-url: {{ .Values.rabbitmq.external.url | quote }}
{{- end }}
{{- if .Values.mongodb.bundled }}
mongodb-password: {{ index $passwords "mongodb-password" | quote }}
mongodb-keyfile: {{ index $passwords "mongodb-keyfile" | quote }}
mongodb-uri: mongodb://darda:{{ index $passwords "mongodb-password" }}@{{ include "darda.mongodbMembers" . }}/darda?replicaSet=rs0&authSource=admin{{ .Values.mongodb.tls.enabled | ternary "&tls=true" "" }}
{{- else if not .Values.mongodb.external.existingSecret.name }}
mongodb-uri: {{ .Values.mongodb.external.url | quote }}
{{- end }}
{{- end -}}

{{/* Changes when a program has to be started anew: (list . "chat-service"). Settings and passwords are read at the start. */}}
{{- define "darda.checksums" -}}
{{- $root := index . 0 -}}
checksum/config: {{ printf "%s\n%s" (include "darda.config" $root) (include (printf "darda.config.%s" (index . 1)) $root) | sha256sum }}
{{- if not $root.Values.existingSecret }}
checksum/secret: {{ include "darda.secretData" $root | sha256sum }}
{{- end }}
{{- end -}}

{{/*
The pods of a Deployment: (list . NAME IS-SCALED REPLICAS). Where something else scales it, as many as there are: a number that is
left out after it was there counts as one. None at first.
*/}}
{{- define "darda.replicas" -}}
{{- $root := index . 0 -}}
{{- if not (index . 2) -}}
{{- index . 3 -}}
{{- else -}}
{{- with lookup "apps/v1" "Deployment" $root.Release.Namespace (index . 1) -}}
{{- .spec.replicas -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The origins of pages that may open sockets. */}}
{{- define "darda.origins" -}}
{{- $origins := .Values.chatService.allowedOrigins -}}
{{- if .Values.ingress.enabled -}}
{{- $secure := list -}}
{{- range .Values.ingress.tls -}}{{- $secure = concat $secure (.hosts | default $.Values.ingress.hosts) -}}{{- end -}}
{{- range .Values.ingress.hosts -}}
{{- $wildcard := splitList "." . | rest | join "." | printf "*.%s" -}}
{{- if not (hasPrefix "*" .) -}}
{{- $origins = append $origins (printf "%s://%s" (or (has . $secure) (has $wildcard $secure) | ternary "https" "http") .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.httpRoute.enabled -}}
{{- range .Values.httpRoute.hostnames -}}
{{- if not (hasPrefix "*" .) -}}
{{- $origins = append $origins (printf "%s://%s" $.Values.httpRoute.scheme .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $origins | uniq | join "," -}}
{{- end -}}

{{/* What all programs are told. */}}
{{- define "darda.config" -}}
DARDA_NAMESPACE: {{ .Values.namespace | quote }}
DARDA_SHARDS: {{ .Values.shards | int | quote }}
DARDA_LIMIT_BACKLOG: {{ .Values.backlogMax | int | quote }}
DARDA_LOG: {{ .Values.log.level | quote }}
DARDA_LOG_FORMAT: {{ .Values.log.format | quote }}
{{- with .Values.monitoring.traces }}
{{- if .endpoint }}
DARDA_OTLP_ENDPOINT: {{ .endpoint | quote }}
DARDA_OTLP_RATIO: {{ .ratio | quote }}
{{- with .caSecretName }}
DARDA_OTLP_CA_FILE: /etc/darda/servers/otlp-ca.crt
{{- end }}
{{- end }}
{{- end }}
DARDA_REDIS_URL_FILE: /etc/darda/servers/redis-url
DARDA_RABBITMQ_URL_FILE: /etc/darda/servers/rabbitmq-url
DARDA_MONGODB_URI_FILE: /etc/darda/servers/mongodb-uri
{{- range $server := list "mongodb" "rabbitmq" "redis" }}
{{- $tls := (index $.Values $server).tls }}
{{- if and $tls.enabled $tls.secretName }}
DARDA_{{ upper $server }}_CA_FILE: /etc/darda/servers/{{ $server }}-ca.crt
{{- end }}
{{- if and $tls.enabled (not $tls.verify) }}
DARDA_{{ upper $server }}_TLS_VERIFY: "off"
{{- end }}
{{- end }}
{{- end -}}

{{/* Where a span comes from, for who looks at it. */}}
{{- define "darda.traceEnv" -}}
{{- if .Values.monitoring.traces.endpoint -}}
- {name: K8S_POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: K8S_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: K8S_NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.pod.name=$(K8S_POD),k8s.namespace.name=$(K8S_NAMESPACE),k8s.node.name=$(K8S_NODE)
{{- end -}}
{{- end -}}

{{- define "darda.config.services" -}}
DARDA_BACKEND: cluster
DARDA_HTTP_ADDR: 0.0.0.0:8080
DARDA_ADMIN_ADDR: 0.0.0.0:9090
DARDA_AUTH_MODE: {{ .Values.auth.mode | quote }}
{{- if eq .Values.auth.mode "open" }}
# Open mode listens where others reach it only when told twice.
DARDA_AUTH_OPEN_ANYWHERE: "true"
{{- end }}
{{- end -}}

{{- define "darda.config.chat-service" -}}
{{ include "darda.config.services" . }}
{{- if .Values.historyService.enabled }}
DARDA_HISTORY_URL: http://{{ include "darda.fullname" . }}-history-service:8080
{{- end }}
{{- with include "darda.origins" . }}
DARDA_ALLOWED_ORIGINS: {{ . | quote }}
{{- end }}
{{- with .Values.chatService.httpWorkers }}
DARDA_HTTP_WORKERS: {{ . | int | quote }}
{{- end }}
DARDA_DRAIN_SECS: {{ .Values.chatService.drainSeconds | int | quote }}
DARDA_DRAIN_PER_SEC: {{ .Values.chatService.drainPerSecond | int | quote }}
DARDA_HEARTBEAT_SECS: {{ .Values.chatService.heartbeatSeconds | int | quote }}
{{- range $name, $value := .Values.chatService.limits }}
DARDA_LIMIT_{{ $name }}: {{ $value | int | quote }}
{{- end }}
{{- end -}}

{{- define "darda.config.history-service" -}}
{{ include "darda.config.services" . }}
{{- end -}}

{{- define "darda.config.persistence-worker" -}}
DARDA_ADMIN_ADDR: 0.0.0.0:9090
DARDA_DRAIN_SECS: {{ .Values.persistenceWorker.drainSeconds | int | quote }}
{{- end -}}
