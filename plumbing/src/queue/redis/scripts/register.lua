-- The names under which the functions are called: the name of the library, `_`, the function.
local DRAINS = { 'allow-oom' }
local READS = { 'no-writes', 'allow-oom' }
local function register(name, callback, flags)
  redis.register_function { function_name = 'LIBRARY_' .. name, callback = callback, flags = flags }
end
register('claim', claim, DRAINS)
register('extend', extend, DRAINS)
register('finish', finish, DRAINS)
register('release', release, DRAINS)
register('release_others', release_others, DRAINS)
register('reassert', reassert, DRAINS)
register('announce', announce, DRAINS)
register('push', push, {})
register('take', take, DRAINS)
register('acknowledge', acknowledge, DRAINS)
register('adopt_results', adopt_results, DRAINS)
register('untake_others', untake_others, DRAINS)
register('expired', expired, READS)
register('put_leases_aside', put_leases_aside, DRAINS)
register('drop', drop, DRAINS)
register('withdraw', withdraw, DRAINS)
register('present', present, READS)
register('depth', depth, READS)
register('adopt_tasks', adopt_tasks, DRAINS)
register('mend', mend, DRAINS)
register('workers', workers, DRAINS)
register('set_generation', set_generation, DRAINS)
register('keep_alive', keep_alive, DRAINS)
