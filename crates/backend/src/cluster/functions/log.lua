-- The log of rooms. The keys of a room, in the order in which every function takes them (after the generation where it
-- is asked for): head, log, pending, ids, idq, gone, pods, ticket, left.
--
-- head     hash: gen, seq (the last given out), at (its time), safe (all up to it are confirmed), persisted (all up to it
--          are in MongoDB), base (the stream has all after it), fence and fence_at (the fence of this generation, where
--          there is one), kept (all that Redis had before it is in left, or in MongoDB), helped (when somebody last took
--          over pending events), forgotten
-- log      stream of events, entry <seq>-0: p prev (empty at a fence), a time, f from, i id, b body
-- pending  sorted set of seqs that no broker has confirmed
-- ids      hash "from|id" -> "seq prev at digest", idq its order, to forget the oldest
-- gone     sorted set of deleted messages by the seq of their delete
-- pods     sorted set of pods that have the room by the end of their lease
-- ticket   who may seed the room
-- left     stream of what was not stored when the room began anew behind a fence, until that is; the shard queue has it too

local MINUTE = 60 * 1000
local OLD_MS = 15 * MINUTE         -- an id older than this is looked up where all are
local AHEAD_MS = MINUTE            -- so is one from the future
local AHEAD_MAX_MS = 10 * MINUTE   -- and one further ahead is refused: nobody could tell later when it was new
local FENCE_MS = 12 * MINUTE       -- so is one that may have been sent before a fence: the former two, and clocks differ
local REMEMBER_MS = 27 * MINUTE    -- ids are known until they are old, however far ahead, and until they are stored
local LOOKED_MS = 5 * MINUTE       -- what a look-up found holds this long
local TICKET_MS = 2500             -- whoever seeds a room has this long to read where it ends
local KEPT = 1000                  -- stored events that the stream keeps for readers
local RANGE = 4294967296           -- numbers of a generation
local HELP_AFTER_MS = 500          -- a pending event this old has lost its publisher
local HELP_AGAIN_MS = 250

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

local function entry(seq)
  return text(seq) .. '-0'
end

-- Forgets ids that are old and stored. A few at a time, more than come in.
local function forget_ids(ids, idq, now, persisted)
  for _ = 1, 8 do
    local oldest = redis.call('LINDEX', idq, 0)
    if not oldest then return end
    local seq, at, field = oldest:match('^(%d+) (%d+) (.*)$')
    if tonumber(seq) > persisted or tonumber(at) > now - REMEMBER_MS then return end
    redis.call('LPOP', idq)
    redis.call('HDEL', ids, field)
  end
end

-- keys: generation, then those of the room up to pods
-- args: generation, backlog, then per event: from, id, time of the id (empty when it tells none), target (empty when there
--       is none), what it is (d: a delete, t: needs a target that lives, l: that was looked at, n: neither), the time at which
--       this function asked for a look-up that did not find the id (empty without one), body
-- answers: {stale} {cold} {gone} or {ok, pods, fence, persisted, {code, seq, prev, at}...}, code: new, known, pending
--          (known, and not everything up to it is safe), conflict, ask (with the time in the place of seq), ahead, target, deleted, full
local function append(keys, args)
  if redis.call('GET', keys[1]) ~= args[1] then return { 'stale' } end
  local head, log, pending, ids, idq, gone, pods =
    keys[2], keys[3], keys[4], keys[5], keys[6], keys[7], keys[8]
  local h = redis.call('HMGET', head, 'gen', 'seq', 'at', 'persisted', 'base', 'fence', 'fence_at', 'forgotten', 'safe')
  if h[1] ~= args[1] then return { 'cold' } end
  if h[8] then return { 'gone' } end
  local seq, persisted, base, safe = tonumber(h[2]), tonumber(h[4]), tonumber(h[5]), tonumber(h[9])
  local fence, fence_at = tonumber(h[6] or '0'), tonumber(h[7] or '0')
  local backlog = tonumber(args[2])
  local now = now_ms()
  local at = math.max(now, tonumber(h[3]))
  local before = seq
  local answers = {}
  local appended, ordered = {}, {}
  for n = 3, #args, 7 do
    local from, id, id_ms, target = args[n], args[n + 1], tonumber(args[n + 2]), args[n + 3]
    local what, looked, body = args[n + 4], tonumber(args[n + 5]), args[n + 6]
    local is_looked_up = looked and looked > now - LOOKED_MS
    local field = from .. '|' .. id
    local known = redis.call('HGET', ids, field)
    local answer
    if known then
      local s, p, a, digest = known:match('^(%d+) (%d+) (%d+) (%x+)$')
      if digest ~= redis.sha1hex(body) then
        answer = { 'conflict' }
      else
        answer = { tonumber(s) > safe and 'pending' or 'known', tonumber(s), tonumber(p), tonumber(a) }
      end
    elseif id_ms and id_ms > now + AHEAD_MAX_MS then
      answer = { 'ahead' }
    elseif not is_looked_up and (not id_ms or id_ms < now - OLD_MS or id_ms > now + AHEAD_MS
        or id_ms < fence_at + FENCE_MS) then
      answer = { 'ask', now }
    elseif (what == 't' or what == 'l') and redis.call('ZSCORE', gone, target) then
      answer = { 'deleted' }
    elseif what == 't' and tonumber(target) <= base then
      answer = { 'target' }
    elseif seq - persisted >= backlog then
      answer = { 'full' }
    else
      local prev = seq
      seq = seq + 1
      redis.call('XADD', log, entry(seq), 'p', text(prev), 'a', text(at), 'f', from, 'i', id, 'b', body)
      redis.call('HSET', ids, field, text(seq) .. ' ' .. text(prev) .. ' ' .. text(at) .. ' ' .. redis.sha1hex(body))
      appended[#appended + 1] = text(seq)
      appended[#appended + 1] = text(seq)
      ordered[#ordered + 1] = text(seq) .. ' ' .. text(at) .. ' ' .. field
      if what == 'd' then redis.call('ZADD', gone, text(seq), target) end
      answer = { 'new', seq, prev, at }
    end
    answers[#answers + 1] = answer
  end
  if seq > before then
    redis.call('ZADD', pending, unpack(appended))
    redis.call('RPUSH', idq, unpack(ordered))
    redis.call('HSET', head, 'seq', text(seq), 'at', text(at))
    if redis.call('PTTL', head) >= 0 then
      for n = 2, 7 do redis.call('PERSIST', keys[n]) end
    end
    forget_ids(ids, idq, now, persisted)
  end
  return { 'ok', redis.call('ZRANGEBYSCORE', pods, text(now), '+inf', 'LIMIT', 0, 500), fence, persisted, unpack(answers) }
end

-- Seqs that the broker has, or MongoDB, are pending no more. Answers the last safe one; seq is the last given out.
local function settle(head, pending, seq)
  local first = redis.call('ZRANGE', pending, 0, 0)
  local safe = first[1] and tonumber(first[1]) - 1 or tonumber(seq)
  redis.call('HSET', head, 'safe', text(safe))
  return safe
end

-- keys: those of the room up to pending; args: generation, seqs. Answers the last safe one, or nothing when the room is
-- in another generation by now.
local function confirm(keys, args)
  local head, pending = keys[1], keys[3]
  local h = redis.call('HMGET', head, 'gen', 'seq')
  if h[1] ~= args[1] then return false end
  for n = 2, #args, 1000 do redis.call('ZREM', pending, unpack(args, n, math.min(n + 999, #args))) end
  return settle(head, pending, h[2])
end

-- keys: those of the room up to pending; args: generation, after, limit, before (0: read up from after, else down from
-- before). What a room had in an earlier generation may be older than what people saw, and counts for nothing.
-- answers: {cold} {gone} or {ok, base, safe, seq, persisted, fence, 1 when pending events need help, entries}
local function read(keys, args)
  local head, log, pending = keys[1], keys[2], keys[3]
  local h = redis.call('HMGET', head, 'gen', 'base', 'safe', 'seq', 'persisted', 'fence', 'forgotten')
  if not h[1] or tonumber(h[1]) < tonumber(args[1]) then return { 'cold' } end
  if h[7] then return { 'gone' } end
  local after, limit, before = tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local base, safe = tonumber(h[2]), tonumber(h[3])
  local help = 0
  local first = redis.call('ZRANGE', pending, 0, 0)
  if first[1] then
    local waits = redis.call('XRANGE', log, first[1] .. '-0', first[1] .. '-0')
    if waits[1] and tonumber(waits[1][2][4]) <= now_ms() - HELP_AFTER_MS then help = 1 end
  end
  local entries = {}
  if limit > 0 and before == 0 then
    local from = math.max(after, base) + 1
    if from <= safe then entries = redis.call('XRANGE', log, entry(from), entry(safe), 'COUNT', limit) end
  elseif limit > 0 then
    local to = math.min(before - 1, safe)
    if to > base then entries = redis.call('XREVRANGE', log, entry(to), entry(base + 1), 'COUNT', limit) end
  end
  return { 'ok', base, safe, tonumber(h[4]), tonumber(h[5]), tonumber(h[6] or '0'), help, entries }
end

-- Takes over pending events whose publisher seems to be gone. keys: those of the room up to pods;
-- args: generation, limit. Answers pods and entries.
local function help(keys, args)
  local head, log, pending = keys[1], keys[2], keys[3]
  local h = redis.call('HMGET', head, 'gen', 'helped')
  local now = now_ms()
  if h[1] ~= args[1] or tonumber(h[2] or '0') > now - HELP_AGAIN_MS then return { {}, {} } end
  local entries = {}
  for _, seq in ipairs(redis.call('ZRANGE', pending, 0, tonumber(args[2]) - 1)) do
    local found = redis.call('XRANGE', log, seq .. '-0', seq .. '-0')
    if found[1] then
      if tonumber(found[1][2][4]) > now - HELP_AFTER_MS then break end
      entries[#entries + 1] = found[1]
    end
  end
  if #entries > 0 then redis.call('HSET', head, 'helped', text(now)) end
  return { redis.call('ZRANGEBYSCORE', keys[7], text(now), '+inf', 'LIMIT', 0, 500), entries }
end

-- keys: generation, ticket; args: generation, token
-- answers: stale, later (somebody else has it), ok
local function ticket(keys, args)
  if redis.call('GET', keys[1]) ~= args[1] then return 'stale' end
  return redis.call('SET', keys[2], args[2], 'PX', TICKET_MS, 'NX') and 'ok' or 'later'
end

-- Keeps what is not stored of a room that begins anew. Answers whether that is all of it, as far as Redis ever knew.
local function keep(head, log, left)
  local h = redis.call('HMGET', head, 'seq', 'persisted', 'fence', 'kept')
  if not h[1] then return false end
  local last, stored = tonumber(h[1]), tonumber(h[2])
  if last > stored then
    redis.call('XTRIM', log, 'MINID', entry(stored + 1))
    if redis.call('EXISTS', left) == 0 then
      redis.call('RENAME', log, left)
    else
      for _, e in ipairs(redis.call('XRANGE', log, '-', '+')) do redis.call('XADD', left, e[1], unpack(e[2])) end
    end
    redis.call('PERSIST', left)
  end
  return h[4] or tonumber(h[3] or '0') <= stored
end

-- keys: generation, then those of the room, all; args: generation, token, last seq in MongoDB, its time, 1 when forgotten
-- answers: stale, later (somebody else is seeding), ok
local function seed(keys, args)
  if redis.call('GET', keys[1]) ~= args[1] then return 'stale' end
  local head, log, pending, ids, idq, gone, own_ticket, left =
    keys[2], keys[3], keys[4], keys[5], keys[6], keys[7], keys[9], keys[10]
  local generation = tonumber(args[1])
  local is = tonumber(redis.call('HGET', head, 'gen') or '-1')
  if is == generation then return 'ok' end
  if is > generation then return 'stale' end
  if redis.call('GET', own_ticket) ~= args[2] then return 'later' end
  local last, last_at = tonumber(args[3]), tonumber(args[4])
  local of_last = math.floor(last / RANGE)
  if of_last > generation then return 'stale' end
  local kept = args[5] == '0' and of_last < generation and keep(head, log, left)
  redis.call('DEL', own_ticket, head, log, pending, ids, idq, gone)
  if args[5] == '1' then
    redis.call('DEL', left)
    redis.call('HSET', head, 'gen', args[1], 'forgotten', '1')
    redis.call('PEXPIRE', head, REMEMBER_MS)
    return 'ok'
  end
  if of_last == generation then
    redis.call('HSET', head, 'gen', args[1], 'seq', args[3], 'at', args[4], 'safe', args[3], 'persisted', args[3],
      'base', args[3])
    redis.call('PEXPIRE', head, REMEMBER_MS)
    return 'ok'
  end
  local fence = generation * RANGE + 1
  local at = text(math.max(now_ms(), last_at))
  local below = text(fence - 1)
  redis.call('HSET', head, 'gen', args[1], 'seq', text(fence), 'at', at, 'safe', below, 'persisted', below,
    'base', below, 'fence', text(fence), 'fence_at', at)
  if kept then redis.call('HSET', head, 'kept', '1') end
  redis.call('XADD', log, entry(fence), 'p', '', 'a', at, 'f', '', 'i', '', 'b', '{"kind":"fence"}')
  redis.call('ZADD', pending, text(fence), text(fence))
  return 'fence'
end

-- Everything up to seq is in MongoDB. keys: those of the room up to gone, left; args: seq
local function persisted(keys, args)
  local head, log, pending, ids, idq, gone, left = keys[1], keys[2], keys[3], keys[4], keys[5], keys[6], keys[7]
  local h = redis.call('HMGET', head, 'gen', 'seq', 'persisted', 'base', 'forgotten', 'fence')
  if not h[1] or h[5] then return 0 end
  local mark, last, was, base = tonumber(args[1]), tonumber(h[2]), tonumber(h[3]), tonumber(h[4])
  -- A mark from another generation, or of a Redis that knew more than this one.
  if math.floor(mark / RANGE) ~= tonumber(h[1]) or mark > last then return 0 end
  if mark > was then
    redis.call('HSET', head, 'persisted', text(mark))
    if redis.call('ZREMRANGEBYSCORE', pending, '-inf', text(mark)) > 0 then settle(head, pending, h[2]) end
    -- With its fence everything before it is stored.
    if h[6] and was < tonumber(h[6]) then redis.call('UNLINK', left) end
    was = mark
  end
  local keep = math.min(was, last - KEPT)
  if keep > base then
    redis.call('XTRIM', log, 'MINID', entry(keep + 1))
    redis.call('ZREMRANGEBYSCORE', gone, '-inf', text(keep))
    redis.call('HSET', head, 'base', text(keep))
  end
  local now = now_ms()
  forget_ids(ids, idq, now, was)
  if was == last then
    -- The head goes first: without it the rest counts for nothing.
    redis.call('PEXPIREAT', head, now + REMEMBER_MS)
    for n = 2, 6 do redis.call('PEXPIREAT', keys[n], now + REMEMBER_MS + 60000) end
  end
  return was
end

-- keys: generation, then those of the room, all; args: generation
local function forget(keys, args)
  if redis.call('GET', keys[1]) ~= args[1] then return 'stale' end
  redis.call('DEL', keys[2], keys[3], keys[4], keys[5], keys[6], keys[7], keys[10])
  redis.call('HSET', keys[2], 'gen', args[1], 'forgotten', '1')
  redis.call('PEXPIRE', keys[2], REMEMBER_MS)
  return 'ok'
end

-- keys: generation; args: the generation that begins
local function open(keys, args)
  local is = redis.call('GET', keys[1])
  if is and tonumber(is) > tonumber(args[1]) then return 'stale' end
  redis.call('SET', keys[1], args[1])
  return 'ok'
end

redis.register_function('log_append@', append)
redis.register_function{ function_name = 'log_confirm@', callback = confirm, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'log_read@', callback = read, flags = { 'no-writes' } }
redis.register_function{ function_name = 'log_help@', callback = help, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'log_ticket@', callback = ticket }
redis.register_function{ function_name = 'log_seed@', callback = seed }
redis.register_function{ function_name = 'log_persisted@', callback = persisted, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'log_forget@', callback = forget, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'log_open@', callback = open, flags = { 'allow-oom' } }
