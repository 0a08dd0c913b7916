# A mocked Kubernetes: each wrapper prints the command that it would run and succeeds.
#
# Settings by environment: MOCK_FAIL, operations that shall fail, as in `create,check`; MOCK_STATE, a folder in which
# to remember what is installed, so that archive_check tells an archived staging from a running one. Without it
# archive_check always succeeds.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=SCRIPTDIR/../contract.bash
source "$here/contract.bash"

# Reads the arguments, and fails where MOCK_FAIL asks for it.
begin() {
    read_arguments "$@"
    release=app-$name
    installed=${MOCK_STATE:+$MOCK_STATE/$project_name.$namespace.$name}
    [[ ,${MOCK_FAIL:-}, != *,$operation,* ]] || fail "$operation: failing because MOCK_FAIL=$MOCK_FAIL asks for it"
}

# Prints a command the way one would type it.
would_run() { say "would run: ${*@Q}"; }

would_install() {
    local pair overrides=()
    for pair in "${app_overrides[@]}"; do overrides+=(--set-string "app.env.$pair"); done
    for pair in "${staging_overrides[@]}"; do overrides+=(--set "$pair"); done
    would_run helm upgrade --install "$release" "$project_name" --namespace "$namespace" --wait \
        --set-string "image.tag=$tag" --set-string "ingress.hostname=$name.$base_domain" "${overrides[@]}"
    if [[ $installed ]]; then
        mkdir -p "$MOCK_STATE"
        printf '%s\n' "$tag" >"$installed"
    fi
}
