#!/usr/bin/env bash
# Sends the requests of the client that existed before vmprov with curl, and checks the members that this client uses.
#   tests/client/existing-client.sh URL IMAGE_URL
set -euo pipefail
url=$1 image=$2 vm=curl-vm key=curl-key

# send STATUS FILTER METHOD PATH [BODY]: checks the status of the response and a jq filter on its body.
send() {
    local status=$1 filter=$2 method=$3 path=$4 response
    shift 4
    response=$(curl -sS --max-time 60 --connect-timeout 10 --http2 --path-as-is -X "$method" -w '\n%{http_code}' \
        "$url$path" ${1:+-H 'Content-Type: application/json' -d "$1"})
    if [[ ${response##*$'\n'} != "$status" ]] || ! jq -e "$filter" <<<"${response%$'\n'*}" >/dev/null; then
        echo "failed: $method $path: $response" >&2
        exit 1
    fi
    echo "ok: $method $path"
}

new_vm() {
    printf '{"name":"%s","memory":512,"vcpus":1,"diskSize":20,"network":"default","imageUrl":%s}' "$1" "$2"
}

vm_members='has("name") and has("uuid") and has("state") and (.memory | type) == "number"
    and (.vcpus | type) == "number" and (.autostart | type) == "boolean"'
problem='(.error | type) == "string" and (.hint | type) == "string" and has("code") and has("retryable")'

[[ $(curl -sS --max-time 60 "$url/healthz") == OK ]]
send 201 '.publicKey | startswith("ssh-rsa ")' POST /api/ssh-keys '{"name":"'$key'","comment":null}'
send 200 '.keys | any(.name == "'$key'" and has("publicKeyPath") and has("privateKeyPath"))' GET /api/ssh-keys
[[ $(curl -sS --max-time 60 "$url/api/ssh-keys/$key/public") == ssh-rsa\ *\ $key ]]
send 201 "$vm_members and .state == \"running\"" POST /api/vms "$(new_vm $vm "\"$image\"")"
send 200 ".vms[] | select(.name == \"$vm\") | $vm_members" GET /api/vms
send 200 "$vm_members" GET /api/vms/$vm
send 200 '.status == "started" and .vm == "'$vm'"' POST /api/vms/$vm/start
send 200 '.status == "injected" and .vm == "'$vm'" and .key == "'$key'"' POST /api/vms/$vm/ssh-keys/$key
send 409 "$problem" POST /api/vms "$(new_vm $vm null)"
send 400 "$problem" POST /api/vms "$(new_vm 'a b' null)"
send 200 '.status == "deleted" and .vm == "'$vm'"' DELETE /api/vms/$vm
for path in "" /start /stop /ssh-keys/$key; do
    send 404 "$problem" "$([[ $path ]] && echo POST || echo GET)" "/api/vms/$vm$path"
done
send 404 "$problem" DELETE /api/vms/$vm
send 200 true DELETE /api/ssh-keys/$key
