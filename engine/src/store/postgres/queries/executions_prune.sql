SELECT fm_prune($1, $2)
