-- What the directory remembers of rooms and memberships, so that not every process asks MongoDB.
--
-- A key is a hash that stands for one room or one membership:
--   v          the value as JSON, '-' for none
--   received, read   the cursors of a member; they may be ahead of v
--   until      ms: until then the value is good without asking
--   primary    which Redis was given the value, in which life: a copy of it does not vouch for anything
--   n          the number of the room's change that made the value, where it is known
--   lease, lease_until   who is reading the value from MongoDB and may put it here, ms
--   c:<change> ms: a change of it is under way and is given up at that time
-- Every key expires some minutes after it was written.
do
  local LEASE_MS = 3000
  local ABSENT_MS = 10000 -- how long a key without a member or room stays

  local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
  end

  local function text(number)
    return string.format('%.0f', number)
  end

  local function drop_lease(key)
    redis.call('HDEL', key, 'lease', 'lease_until')
  end

  -- The fields of a key, and whether a change is under way. What a change that was given up may have changed is not
  -- believed any more.
  local function fields(key, now)
    local flat, found, busy, over = redis.call('HGETALL', key), {}, false, {}
    for i = 1, #flat, 2 do
      found[flat[i]] = flat[i + 1]
      if flat[i]:sub(1, 2) == 'c:' then
        if tonumber(flat[i + 1]) > now then
          busy = true
        else
          over[#over + 1] = flat[i]
        end
      end
    end
    if #over > 0 then
      redis.call('HDEL', key, 'v', unpack(over))
      found.v = nil
    end
    return found, busy
  end

  local function write(key, now, v, received, read, primary, fresh_ms, keep_ms)
    redis.call('HSET', key, 'v', v, 'received', received, 'read', read, 'primary', primary,
      'until', text(now + tonumber(fresh_ms)))
    redis.call('PEXPIRE', key, v == '-' and ABSENT_MS or keep_ms)
  end

  local function highest(a, b)
    if a and tonumber(a) > tonumber(b) then return a end
    return b
  end

  -- KEYS: any. ARGV: primary, lease.
  -- Answers for each {state, whether the caller got the lease, v, received, read}; state is fresh, old (only to be
  -- believed while nobody can be asked), none or busy (a change is under way).
  redis.register_function('darda_directory_get@', function(keys, args)
    local now, answers = now_ms(), {}
    for i, key in ipairs(keys) do
      local found, busy = fields(key, now)
      local state = 'none'
      if busy then
        state = 'busy'
      elseif found.v and found.primary == args[1] then
        state = tonumber(found['until']) > now and 'fresh' or 'old'
      end
      local leased = 0
      if (state == 'old' or state == 'none')
        and not (found.lease and tonumber(found.lease_until) > now) then
        redis.call('HSET', key, 'lease', args[2], 'lease_until', text(now + LEASE_MS))
        if not found.v then redis.call('PEXPIRE', key, ABSENT_MS) end
        leased = 1
      end
      local known = state == 'fresh' or state == 'old'
      answers[i] = { state, leased, known and found.v or false, found.received or '0', found.read or '0' }
    end
    return answers
  end)

  -- Keeps what was read, if the lease still holds: nothing has changed since it was given out.
  -- KEYS: one. ARGV: lease, primary, ms that the value is good, ms that it stays, v, received, read.
  redis.register_function('darda_directory_fill@', function(keys, args)
    local key = keys[1]
    local had = redis.call('HMGET', key, 'lease', 'received', 'read')
    if had[1] ~= args[1] then return 0 end
    drop_lease(key)
    write(key, now_ms(), args[5], highest(had[2], args[6]), highest(had[3], args[7]), args[2], args[3], args[4])
    return 1
  end)

  -- A change is about to be committed. KEYS: those that nobody may believe until it is settled, then others that it
  -- touches. ARGV: change, how many of the first kind there are, ms after which it is given up.
  -- Answers the time, ms.
  redis.register_function('darda_directory_begin@', function(keys, args)
    local now, give_up = now_ms(), tonumber(args[3])
    for i, key in ipairs(keys) do
      drop_lease(key)
      if i <= tonumber(args[2]) then
        redis.call('HSET', key, 'c:' .. args[1], text(now + give_up))
        if redis.call('PTTL', key) < give_up then redis.call('PEXPIRE', key, 2 * give_up) end
      end
    end
    return now
  end)

  -- A change was committed. KEYS: as when it began. ARGV: change, its number, primary, ms that values are good, ms that
  -- they stay, when it began (0: somewhere else), and for each key: v, received, read, whether the cursors begin anew.
  -- What a later change has put here stays. Whoever comes so late that the number of a later change may be forgotten
  -- puts nothing here: it is read again.
  redis.register_function('darda_directory_settle@', function(keys, args)
    local now, number = now_ms(), tonumber(args[2])
    local is_late = now - tonumber(args[6]) >= ABSENT_MS
    for i, key in ipairs(keys) do
      local at = 7 + (i - 1) * 4
      local v, received, read = args[at], args[at + 1], args[at + 2]
      drop_lease(key)
      redis.call('HDEL', key, 'c:' .. args[1])
      local had = redis.call('HMGET', key, 'n', 'received', 'read')
      if is_late then
        if tonumber(had[1] or 0) <= number then redis.call('HDEL', key, 'v') end
      elseif tonumber(had[1] or 0) <= number then
        if args[at + 3] == '0' then
          received, read = highest(had[2], received), highest(had[3], read)
        end
        write(key, now, v, received, read, args[3], args[4], args[5])
        redis.call('HSET', key, 'n', args[2])
      end
    end
    return 0
  end)

  -- A change was not committed. KEYS: as when it began. ARGV: change.
  redis.register_function('darda_directory_abandon@', function(keys, args)
    for _, key in ipairs(keys) do
      redis.call('HDEL', key, 'c:' .. args[1])
    end
    return 0
  end)

  -- Cursors went up in MongoDB. KEYS: the members. ARGV: received and read of each.
  redis.register_function('darda_directory_advance@', function(keys, args)
    for i, key in ipairs(keys) do
      local had = redis.call('HMGET', key, 'received', 'read')
      if redis.call('EXISTS', key) == 1 then
        redis.call('HSET', key, 'received', highest(had[1], args[2 * i - 1]), 'read', highest(had[2], args[2 * i]))
      end
    end
    return 0
  end)
end
