# Stagings as helm releases, one for each staging, in the project's namespace.
#
# Settings by environment (list them in the agent's [staging.wrappers.NAME] env or env_file):
#   CHART               the chart: a path, an oci:// reference or repo/name; required by create and update
#   CHART_VERSION       its version; by default what helm takes
#   APP_RELEASE         what release names begin with (default app: app-hello for the staging hello)
#   TAG_VALUE           path of the image tag in the chart's values (default image.tag)
#   HOST_VALUE          path of the host name (default ingress.hostname), set to <name>.<base-domain>
#   APP_ENV_VALUE       path of the application's environment (default app.env)
#   SELECTOR            label that marks what belongs to a release (default app.kubernetes.io/instance)
#   CLEANUP_KINDS       what cleanup deletes (default persistentvolumeclaims,certificates.cert-manager.io)
#   HELM_TIMEOUT        for install, uninstall and deletion (default 600s)
#   KUBEDOG_TIMEOUT     seconds that check may take (default 3)
#   HELM_BIN, KUBECTL_BIN, KUBEDOG_BIN   the programs, and KUBECONFIG, AWS_* or whatever they need
#
# Values travel in files only the owner can read, never in an argument: no value needs escaping, no secret is seen in a
# process list.

set -euo pipefail
umask 077
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=SCRIPTDIR/../contract.bash
source "$here/contract.bash"

helm=${HELM_BIN:-helm}
kubectl=${KUBECTL_BIN:-kubectl}
kubedog=${KUBEDOG_BIN:-kubedog}
timeout=${HELM_TIMEOUT:-600s}

# Reads the arguments and names the release.
begin() {
    read_arguments "$@"
    release=${APP_RELEASE:-app}-$name
    selector=${SELECTOR:-app.kubernetes.io/instance}=$release
}

# Installs the release or brings it to these settings, and waits until it is up. Both create and update do this: either
# goes on from whatever an interrupted one left.
install_release() {
    : "${CHART:?"$operation: CHART is not set: it names the chart of the staging"}"
    local pair
    # The folder outlives this function: the trap that removes it runs when the wrapper ends.
    values=$(mktemp -d)
    trap 'rm -rf "$values"' EXIT
    value_files=()
    add_text "${TAG_VALUE:-image.tag}" "$tag"
    add_text "${HOST_VALUE:-ingress.hostname}" "$name.$base_domain"
    for pair in "${app_overrides[@]}"; do
        must_match "the key of an app override" "${pair%%=*}" '^[A-Za-z_][A-Za-z0-9_]*$'
        add_text "${APP_ENV_VALUE:-app.env}.${pair%%=*}" "${pair#*=}"
    done
    for pair in "${staging_overrides[@]}"; do add_typed "${pair%%=*}" "${pair#*=}"; done
    say "$operation: helm upgrade --install $release, waiting up to $timeout"
    "$helm" upgrade --install "$release" "$CHART" ${CHART_VERSION:+--version "$CHART_VERSION"} \
        --namespace "$namespace" --wait --timeout "$timeout" "${value_files[@]}"
    say "URL: https://$name.$base_domain/"
}

# Adds a value that is a text whatever it looks like.
add_text() { add_value "$1" "$(json_string "$2")"; }

# Adds a value typed as `helm --set` types it: numbers, true, false and null are themselves, the rest is text.
add_typed() {
    if [[ $2 =~ ^(true|false|null|0|-?[1-9][0-9]{0,17})$ ]]; then add_value "$1" "$2"; else add_text "$1" "$2"; fi
}

# Adds a values file that sets one dotted path, in which `\.` is a dot inside a key. JSON is YAML; helm merges the files
# and the last one wins.
add_value() {
    local path=${1//\\./$'\x01'} file part parts opening='' closing=''
    must_match "the key of an override" "$1" '^([A-Za-z0-9_/-]|\\\.)+(\.([A-Za-z0-9_/-]|\\\.)+)*$'
    IFS=. read -r -a parts <<<"$path"
    for part in "${parts[@]}"; do
        opening+="{$(json_string "${part//$'\x01'/.}"):"
        closing+='}'
    done
    file=$values/${#value_files[@]}.json
    printf '%s%s%s\n' "$opening" "$2" "$closing" >"$file"
    value_files+=("--values=$file")
}

# Whether helm knows the release: 0 yes, 1 no. A cluster that cannot be asked ends the wrapper: silence proves nothing.
release_exists() {
    local said
    said=$("$helm" status "$release" --namespace "$namespace" 2>&1) && return 0
    [[ $said == *'release: not found'* ]] || fail "$operation: cannot tell whether $release is there:" "$said"
    return 1
}
