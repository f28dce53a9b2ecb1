{{- define "abmesh.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Labels that select pods; they never change. Takes (list $ COMPONENT). */ -}}
{{- define "abmesh.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: abmesh
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* Takes (list $ COMPONENT). Helm itself adds app.kubernetes.io/managed-by. */ -}}
{{- define "abmesh.labels" -}}
{{- $root := index . 0 -}}
{{ include "abmesh.selector" . }}
app.kubernetes.io/part-of: abmesh
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
{{- end -}}

{{- define "abmesh.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end -}}

{{- /* Namespaces in which the controller writes EnvoyFilters, each once, as a JSON list. */ -}}
{{- define "abmesh.filterNamespaces" -}}
{{ concat .Values.gatewayNamespaces .Values.callerNamespaces | uniq | sortAlpha | toJson }}
{{- end -}}

{{- /* The server as gateways reach it. */ -}}
{{- define "abmesh.server" -}}
{{- if eq .Values.extProc.mode "sidecar" -}}
unix:{{ .Values.extProc.sidecar.socket }}
{{- else -}}
{{ include "abmesh.fullname" . }}-ext-proc.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:50051
{{- end -}}
{{- end -}}

{{- /* Where the controller finds what it writes to; the uninstall Job takes the same. */ -}}
{{- define "abmesh.places" -}}
- --owner={{ include "abmesh.fullname" . }}-controller
{{- range .Values.gatewayNamespaces }}
- --gateway-namespace={{ . }}
{{- end }}
{{- range .Values.callerNamespaces }}
- --caller-namespace={{ . }}
{{- end }}
{{- end -}}

{{- define "abmesh.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "abmesh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "abmesh.environment" -}}
- {name: HOME, value: /tmp}    # the only folder that can be written to
{{- end -}}

{{- define "abmesh.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.secretName }}
- {name: secrets, mountPath: /etc/abmesh/secrets, readOnly: true}
{{- end }}
{{- end -}}

{{- define "abmesh.volumes" -}}
- {name: tmp, emptyDir: {sizeLimit: 64Mi}}
{{- if .Values.secretName }}
- name: secrets
  secret: {secretName: {{ .Values.secretName }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- /* Spread over zones and nodes where that is possible. Takes (list $ COMPONENT). */ -}}
{{- define "abmesh.spread" -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "abmesh.selector" $ | nindent 6 }}
{{- end }}
{{- end -}}

{{- /* What controller and server pods have in common. Takes (list $ VALUES). */ -}}
{{- define "abmesh.placement" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}
