source <(COMPLETE=bash vmprov)
