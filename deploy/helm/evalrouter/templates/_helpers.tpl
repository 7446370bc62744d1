{{- define "evalrouter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "evalrouter.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "evalrouter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "evalrouter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "evalrouter.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "evalrouter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The config: the values', and what other values say about it. */}}
{{- define "evalrouter.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "server" (merge (dict "drain_seconds" .Values.drainSeconds) (default dict $config.server)) -}}
{{- $storage := dict -}}
{{- with .Values.postgresql -}}
{{- if .host -}}
{{- $host := ternary (printf "[%s]" .host) .host (contains ":" .host) -}}
{{- $options := ternary (printf "?sslmode=%s" .sslmode) "" (ne .sslmode "") -}}
{{- $address := printf "postgresql://%s@%s:%d/%s%s" (urlquery .user) $host (int .port) (urlquery .database) $options -}}
{{- $_ := set $storage "database" $address -}}
{{- end -}}
{{- end -}}
{{- with .Values.s3 -}}
{{- if .bucket -}}
{{- $_ := set $storage "artifacts" (printf "s3://%s" (list .bucket .prefix | compact | join "/")) -}}
{{- $s3 := dict -}}
{{- if .endpointUrl -}}{{- $_ := set $s3 "endpoint_url" .endpointUrl -}}{{- end -}}
{{- if .region -}}{{- $_ := set $s3 "region" .region -}}{{- end -}}
{{- if $s3 -}}{{- $_ := set $storage "s3" $s3 -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if $storage -}}
{{- $_ := set $config "storage" (merge $storage (default dict $config.storage)) -}}
{{- end -}}
{{- if .Values.rayService.enabled -}}
{{- $url := printf "http://%s-models-serve-svc:8000/v1" (include "evalrouter.fullname" .) -}}
{{- $ray := dict "ray" (dict "kind" "ray_serve" "base_url" $url) -}}
{{- $_ := set $config "providers" (merge $ray (default dict $config.providers)) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
