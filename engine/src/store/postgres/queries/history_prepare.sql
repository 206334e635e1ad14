SELECT fm_prepare_history($1)
