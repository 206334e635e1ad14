SELECT fm_retire_history($1, $2)
