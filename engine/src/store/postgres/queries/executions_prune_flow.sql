SELECT fm_prune_flow($1, $2, $3, $4, $5)
