{{/* Fails where values contradict each other, and says what to change. */}}
{{- define "evalrouter.refuse" -}}
{{- $problems := list -}}
{{- $v := .Values -}}
{{- $postgres := ne $v.postgresql.host "" -}}
{{- $bucket := ne $v.s3.bucket "" -}}
{{- $storage := default dict $v.config.storage -}}
{{- $server := default dict $v.config.server -}}
{{- $least := ternary (int $v.autoscaling.minReplicas) (int $v.replicas) $v.autoscaling.enabled -}}
{{- $most := ternary (int $v.autoscaling.maxReplicas) (int $v.replicas) $v.autoscaling.enabled -}}
{{- $many := gt $most 1 -}}
{{- $what := ternary (printf "autoscaling.maxReplicas is %d" $most) (printf "replicas is %d" $most) $v.autoscaling.enabled -}}

{{- if and $many (not $postgres) -}}
{{- $problems = append $problems (printf "%s, but SQLite is a file for one pod: set postgresql.host, or one replica" $what) -}}
{{- end -}}
{{- if and $many $postgres (not $bucket) (or (not $v.persistence.enabled) (and (not $v.persistence.existingClaim) (ne $v.persistence.accessMode "ReadWriteMany"))) -}}
{{- $problems = append $problems (printf "%s, but the artifacts are in a volume of one pod: set s3.bucket, or persistence.accessMode: ReadWriteMany" $what) -}}
{{- end -}}
{{- if and (not $postgres) (not $v.persistence.enabled) -}}
{{- $problems = append $problems "persistence.enabled is false, so SQLite would lose everything with its pod: enable it, or set postgresql.host" -}}
{{- end -}}
{{- if and $postgres (not $bucket) (not $v.persistence.enabled) (not $many) -}}
{{- $problems = append $problems "persistence.enabled is false and s3.bucket is empty, so artifacts would be lost with their pod: set one of them" -}}
{{- end -}}
{{- if and (not $v.adminKey.existingSecret) (not $v.persistence.enabled) (not $server.allow_anonymous) -}}
{{- $problems = append $problems "adminKey.existingSecret is empty and there is no volume to write the first key to: set it" -}}
{{- end -}}
{{- if and (not $v.adminKey.existingSecret) $many (not $server.allow_anonymous) -}}
{{- $problems = append $problems (printf "%s, so which pod writes the first key is left to chance: set adminKey.existingSecret" $what) -}}
{{- end -}}
{{- if and $v.persistence.existingClaim $v.persistence.storageClass -}}
{{- $problems = append $problems "persistence.existingClaim has a class of its own: leave persistence.storageClass empty" -}}
{{- end -}}
{{- if and $v.persistence.existingClaim (not $v.persistence.enabled) -}}
{{- $problems = append $problems "persistence.existingClaim is set, but persistence.enabled is false" -}}
{{- end -}}

{{- if and $postgres $storage.database -}}
{{- $problems = append $problems "config.storage.database and postgresql.host both name a database: set one of them" -}}
{{- end -}}
{{- if and (not $postgres) (hasPrefix "postgres" (toString (default "" $storage.database))) -}}
{{- $problems = append $problems "config.storage.database names a PostgreSQL server: set postgresql.host and its neighbours instead" -}}
{{- end -}}
{{- if and $v.postgresql.existingSecret (not $postgres) -}}
{{- $problems = append $problems "postgresql.existingSecret is set, but postgresql.host is empty" -}}
{{- end -}}
{{- if and $bucket $storage.artifacts -}}
{{- $problems = append $problems "config.storage.artifacts and s3.bucket both say where artifacts are: set one of them" -}}
{{- end -}}
{{- if and $v.s3.existingSecret (not $bucket) -}}
{{- $problems = append $problems "s3.existingSecret is set, but s3.bucket is empty" -}}
{{- end -}}
{{- range $name := list "host" "port" -}}
{{- if hasKey $server $name -}}
{{- $problems = append $problems (printf "config.server.%s has no effect in a pod, which listens on port 4000: set service.port" $name) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $server "drain_seconds" -}}
{{- $problems = append $problems "config.server.drain_seconds: set drainSeconds, which the pod's grace period follows" -}}
{{- end -}}
{{- if $storage.folder -}}
{{- $problems = append $problems "config.storage.folder: the volume is mounted at /data, where EVALROUTER_DATA leads" -}}
{{- end -}}

{{- $secrets := dict "config.server.admin_key" $server.admin_key "config.storage.password" $storage.password -}}
{{- range $name, $provider := (default dict $v.config.providers) -}}
{{- if kindIs "map" $provider -}}
{{- $_ := set $secrets (printf "config.providers.%s.api_key" $name) $provider.api_key -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $secrets | sortAlpha -}}
{{- $value := get $secrets $name -}}
{{- if and $value (not (hasPrefix "${" (toString $value))) -}}
{{- $problems = append $problems (printf "%s is a secret, and the config becomes a ConfigMap: write ${NAME}, and name the secret in secretEnv" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "EVALROUTER_ADMIN_KEY" "EVALROUTER_ADMIN_KEY_FILE" "EVALROUTER_CONFIG" "EVALROUTER_DATA" "POSTGRES_PASSWORD" "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" -}}
{{- if or (hasKey $v.env $name) (hasKey $v.secretEnv $name) -}}
{{- $problems = append $problems (printf "%s is set by the chart: use adminKey, config, persistence, postgresql or s3 instead of env and secretEnv" $name) -}}
{{- end -}}
{{- end -}}
{{- range $name := keys $v.env | sortAlpha -}}
{{- if hasKey $v.secretEnv $name -}}
{{- $problems = append $problems (printf "%s is in env and in secretEnv" $name) -}}
{{- end -}}
{{- end -}}

{{- if and $v.autoscaling.enabled (gt $least $most) -}}
{{- $problems = append $problems (printf "autoscaling.minReplicas is %d, more than autoscaling.maxReplicas, %d" $least $most) -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (not (dig "requests" "cpu" "" $v.resources)) -}}
{{- $problems = append $problems "autoscaling.enabled needs resources.requests.cpu, which the utilization is a share of" -}}
{{- end -}}
{{- with $v.podDisruptionBudget -}}
{{- if .enabled -}}
{{- if and (not (kindIs "invalid" .minAvailable)) (not (kindIs "invalid" .maxUnavailable)) -}}
{{- $problems = append $problems "podDisruptionBudget.minAvailable and .maxUnavailable are both set: set one of them" -}}
{{- else if and (kindIs "invalid" .minAvailable) (kindIs "invalid" .maxUnavailable) -}}
{{- $problems = append $problems "podDisruptionBudget.enabled needs minAvailable or maxUnavailable" -}}
{{- else if and (not (kindIs "invalid" .minAvailable)) (not (kindIs "string" .minAvailable)) (ge (int .minAvailable) $least) -}}
{{- $problems = append $problems (printf "podDisruptionBudget.minAvailable is %d and there may be %d replicas, so no node could ever be drained" (int .minAvailable) $least) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled (not $v.adminKey.existingSecret) (not $server.allow_anonymous) -}}
{{- $problems = append $problems "metrics.serviceMonitor.enabled needs adminKey.existingSecret, because /metrics needs an administrator's key" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- $problems = append $problems "ingress.enabled needs ingress.hosts" -}}
{{- end -}}
{{- if and $v.rayService.enabled (not $v.rayService.models) -}}
{{- $problems = append $problems "rayService.enabled needs rayService.models" -}}
{{- end -}}
{{- if and $v.rayService.enabled (not $v.rayService.workerGroups) -}}
{{- $problems = append $problems "rayService.enabled needs rayService.workerGroups, because the head serves no models" -}}
{{- end -}}
{{- if and $v.rayService.enabled (hasKey (default dict $v.config.providers) "ray") -}}
{{- $problems = append $problems "rayService.enabled makes the provider ray, and config.providers has one of that name" -}}
{{- end -}}

{{- if $problems -}}
{{- fail (printf "\n- %s" (join "\n- " $problems)) -}}
{{- end -}}
{{- end -}}
