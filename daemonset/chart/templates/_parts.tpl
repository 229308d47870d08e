{{- define "prestage.image" -}}
{{- $repository := required "image.repository: say where you pushed the image that the Dockerfile builds" .Values.image.repository -}}
{{- if .Values.image.digest -}}{{ $repository }}@{{ .Values.image.digest }}{{- else -}}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end -}}
{{- end }}

{{/* of every object; (list . "broker") */}}
{{- define "prestage.labels" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: prestage
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
app.kubernetes.io/part-of: prestage
{{- end }}

{{- define "prestage.selector" -}}
app.kubernetes.io/name: prestage
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "prestage.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* the token of the API server, and no other way to it */}}
{{- define "prestage.apiToken" -}}
- name: api-token
  projected:
    defaultMode: 0444
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{/* how the broker is asked: a token for it alone, and its CA, which it writes itself at its first start */}}
{{- define "prestage.brokerVolumes" -}}
- name: broker-token
  projected:
    defaultMode: 0444
    sources: [{serviceAccountToken: {path: token, audience: prestage-broker, expirationSeconds: 3607}}]
- name: broker-ca
  configMap: {name: prestage-broker-ca}
{{- end }}

{{- define "prestage.brokerFlags" -}}
- --broker=https://prestage-broker.{{ .Release.Namespace }}.svc:8443
- --broker-ca=/etc/prestage/broker-ca/ca.crt
- --broker-token=/var/run/secrets/prestage.dev/broker/token
{{- end }}

{{- define "prestage.apiMount" -}}
- {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- define "prestage.brokerMounts" -}}
- {name: broker-token, mountPath: /var/run/secrets/prestage.dev/broker, readOnly: true}
- {name: broker-ca, mountPath: /etc/prestage/broker-ca, readOnly: true}
{{- end }}

{{- define "prestage.priority" -}}
{{- $top := index . 0 -}}{{- $name := index $top.Values.priorityClasses (index . 1) -}}
{{- if $name }}
priorityClassName: {{ $name }}
{{- end -}}
{{- end }}
