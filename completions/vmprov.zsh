#compdef vmprov
source <(COMPLETE=zsh vmprov)
# Loaded by the first Tab, it must answer that one, too.
[[ ${funcstack[1]} != _vmprov ]] || _clap_dynamic_completer_vmprov "$@"
