-- What the functions share. Every function gets the keys of one pool in this order (`keys.rs` lists them), then its own.
--
-- A delivery `<task>:<attempt>` that is ready or in hands has terms: "list lease remaining since hard", times in
-- milliseconds; `hard` is 0 while the delivery is ready, and the attempt's hard end once it was claimed. A delivery among
-- the results has an outcome. The lists say who comes next; an element of a list whose terms or outcome are gone was
-- withdrawn from a long list, and is left out when its turn comes (field `<list>` of `gone` counts such elements).
--
-- There is no rollback: each function reads all that it will write before its first write, so that a key of the wrong
-- type is an error that changes nothing, and the writes are ordered so that what a crash leaves behind can be recovered.
local HIGH, NORMAL, LOW, PAYLOAD, TERMS, LATEST, LEASES, OWNERS = 1, 2, 3, 4, 5, 6, 7, 8
local RESULTS, OUTCOMES, CANCEL, GENERATION, BELL, WORKERS, UNREADABLE, GONE = 9, 10, 11, 12, 13, 14, 15, 16
local SENDERS, LISTENERS = 17, 18
local OWN = 19 -- The first key that only this function has.

local TYPES = { 'list', 'list', 'list', 'hash', 'hash', 'hash', 'zset', 'hash',
  'list', 'hash', 'set', 'string', 'list', 'hash', 'list', 'hash', 'hash', 'hash' }
local LENGTHS = { list = 'LLEN', hash = 'HLEN', zset = 'ZCARD', set = 'SCARD', string = 'STRLEN' }

local ID_BYTES_MAX = 600 -- Longer ids are not ours.
local REMOVE_MAX = 1000 -- Nothing is searched for in a list that is longer than this.
local SKIPS_MAX = 1000 -- Withdrawn elements that one call leaves out.
local BELL_MAX = 128 -- Rings that nobody has heard.
local UNREADABLE_MAX = 1000 -- Elements put aside; older ones are forgotten.
local PAGE = 1000 -- Elements of a list read at a time.
local BODIES_PAGE = 32 -- Messages read at a time: one of them may be the first that is too many.
local ADDRESSED_MAX = 1000 -- Results that wait for one engine; others are for all.
local LISTENER_SILENT = 3000 -- An engine that has not asked for its results for so long gets none, in milliseconds.
local ARGUMENTS_MAX = 1000 -- Arguments of one command, an even number: more do not fit the stack.
-- Begins the fields of `workers` that say who is asked to drain; no worker's name has such a character.
local DRAIN = '\1'

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Fails when one of the keys has the wrong type.
local function probe(K, ...)
  for _, key in ipairs({ ... }) do redis.call(LENGTHS[TYPES[key]], K[key]) end
end

-- Task and attempt of an id; nothing when it is none.
local function split(id)
  if #id > ID_BYTES_MAX then return nil end
  local task, attempt = string.match(id, '^([^%c]+):([1-9]%d*)$')
  if not task or #attempt > 10 then return nil end
  return task, tonumber(attempt)
end

-- Gives a command all of `list`, as much at a time as fits. One call for many costs little more than one for each.
local function all(command, key, list)
  for first = 1, #list, ARGUMENTS_MAX do
    redis.call(command, key, unpack(list, first, math.min(first + ARGUMENTS_MAX - 1, #list)))
  end
end

-- The values of fields, `false` where there is none.
local function fields(key, names)
  local values = {}
  for first = 1, #names, ARGUMENTS_MAX do
    local page = redis.call('HMGET', key, unpack(names, first, math.min(first + ARGUMENTS_MAX - 1, #names)))
    for i = 1, #page do values[first + i - 1] = page[i] end
  end
  return values
end

local function parse_terms(text)
  if not text then return nil end
  local list, lease, remaining, since, hard = string.match(text, '^([123]) (%d+) (%d+) (%d+) (%d+)$')
  if not list then return nil end
  return { list = tonumber(list), lease = tonumber(lease), remaining = tonumber(remaining), since = tonumber(since),
    hard = tonumber(hard) }
end

local function read_terms(K, id) return parse_terms(redis.call('HGET', K[TERMS], id)) end

local function terms_text(terms)
  return string.format('%d %d %d %d %d', terms.list, terms.lease, terms.remaining, terms.since, terms.hard)
end

local function write_terms(K, id, terms) redis.call('HSET', K[TERMS], id, terms_text(terms)) end

-- Keeps an element that is no id of ours for people to look at. A `pcall`: evidence is never worth a failure.
local function put_aside(K, element)
  redis.pcall('LPUSH', K[UNREADABLE], string.sub(element, 1, ID_BYTES_MAX))
  redis.pcall('LTRIM', K[UNREADABLE], 0, UNREADABLE_MAX - 1)
end

-- The books of an element that was taken out of a list because it is withdrawn or garbage. Returns 1 for garbage.
local function left_out(K, list, id)
  if not split(id) then
    put_aside(K, id)
    return 1
  end
  local gone = tonumber(redis.pcall('HGET', K[GONE], list) or 0)
  if gone and gone > 0 then redis.pcall('HINCRBY', K[GONE], list, -1) end
  return 0
end

local function gone(K, list)
  local count = tonumber(redis.call('HGET', K[GONE], list) or 0) or 0
  if count > 0 then return count end
  return 0
end

-- Takes a delivery out of a list, or leaves the element to be left out at its turn.
local function remove_from(K, list, id)
  if redis.call('LLEN', K[list]) <= REMOVE_MAX then
    redis.call('LREM', K[list], 1, id)
  elseif type(redis.pcall('HINCRBY', K[GONE], list, 1)) ~= 'number' then
    -- Somebody wrote something else there.
    redis.call('HSET', K[GONE], list, 1)
  end
end

-- When a lease that is kept at `time` ends. Before the attempt's hard end it is a sign of life, and silence after it is a
-- lost lease, whenever that is. A sign of life after the hard end is one of a worker that has overrun it: the attempt gets
-- the time of one heartbeat more to be reported, and ends half a millisecond after a whole one, which tells it apart.
local function lease_end(time, terms)
  if time < terms.hard then return time + terms.lease end
  return terms.hard + math.floor(terms.lease / 3) + 0.5
end

local function ring(K)
  if redis.call('LLEN', K[BELL]) < BELL_MAX then redis.call('LPUSH', K[BELL], 1) end
end

-- Nothing is ready: rings that nobody has heard tell of nothing. A `pcall`: what somebody else wrote there is left for `mend`.
local function unring(K) redis.pcall('LTRIM', K[BELL], 1, 0) end

local function forget_latest(K, id)
  local task, attempt = split(id)
  if task and tonumber(redis.call('HGET', K[LATEST], task) or 0) == attempt then redis.call('HDEL', K[LATEST], task) end
end

local function generation(K) return redis.call('GET', K[GENERATION]) or '' end

-- Forgets a ready delivery entirely.
local function withdraw_ready(K, id, terms)
  redis.call('HDEL', K[TERMS], id)
  remove_from(K, terms.list, id)
  redis.call('HDEL', K[PAYLOAD], id)
  redis.call('HDEL', K[SENDERS], id)
  redis.call('SREM', K[CANCEL], id)
end

-- The list of the results that are for one engine. It shares the pool's slot; which engines there are is only known here.
local function addressed(K, engine) return K[RESULTS] .. ':for:' .. engine end
