COMPLETE=fish vmprov | source
