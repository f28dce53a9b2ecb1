{{- /*
The server as a native sidecar on a Unix socket, for a chart of yours that has this one as a dependency and writes the
pods of your gateways. Takes the root of this chart: (index .Subcharts "abmesh"). Three templates, for a pod's
initContainers, volumes, and the volumeMounts of its proxy. The pod's fsGroup is extProc.sidecar.user.
*/ -}}
{{- define "abmesh.sidecar.container" -}}
- name: abmesh
  image: {{ include "abmesh.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  args:
  - ext-proc
  - --kubernetes
  - --listen=unix:{{ .Values.extProc.sidecar.socket }}
  - --metrics={{ .Values.listenAddress }}:9102
  - --drain={{ .Values.extProc.drainSeconds }}s
  {{- range .Values.extProc.eventOrigins }}
  - --event-origin={{ . }}
  {{- end }}
  env: [{name: HOME, value: /tmp}]
  ports: [{name: ab-metrics, containerPort: 9102}]
  startupProbe:
    httpGet: {path: /metrics, port: ab-metrics}
    periodSeconds: 1
    failureThreshold: 60
  resources:
    {{- toYaml .Values.extProc.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ .Values.extProc.sidecar.user }}
    runAsGroup: {{ .Values.extProc.sidecar.user }}
    {{- include "abmesh.containerSecurity" . | nindent 4 }}
  volumeMounts:
  - {name: abmesh-socket, mountPath: {{ dir .Values.extProc.sidecar.socket }}}
  - {name: abmesh-tmp, mountPath: /tmp}
{{- end -}}

{{- define "abmesh.sidecar.volumes" -}}
- {name: abmesh-socket, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
- {name: abmesh-tmp, emptyDir: {sizeLimit: 64Mi}}
{{- end -}}

{{- define "abmesh.sidecar.mounts" -}}
- {name: abmesh-socket, mountPath: {{ dir .Values.extProc.sidecar.socket }}}
{{- end -}}
