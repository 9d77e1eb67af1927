-- Presence and routes.
do
  local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
  end

  -- Puts a pod on the routes of rooms, or keeps it there.
  -- KEYS: the routes of the rooms (sorted sets of pods by the time their place ends). ARGV: pod, lease in ms.
  -- Answers for each room whether the pod had no place there.
  redis.register_function('darda_relay_register@', function(keys, args)
    local pod, lease, now = args[1], tonumber(args[2]), now_ms()
    local fresh = {}
    for i, key in ipairs(keys) do
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
      fresh[i] = redis.call('ZADD', key, now + lease, pod)
      redis.call('PEXPIRE', key, lease)
    end
    return fresh
  end)

  -- Takes a pod off the routes of rooms. KEYS: the routes. ARGV: pod.
  redis.register_function('darda_relay_unregister@', function(keys, args)
    for _, key in ipairs(keys) do
      redis.call('ZREM', key, args[1])
    end
    return #keys
  end)

  -- The pods that have each of the rooms now. KEYS: the routes.
  redis.register_function{
    function_name = 'darda_relay_routes@',
    callback = function(keys)
      local now, routes = now_ms(), {}
      for i, key in ipairs(keys) do
        routes[i] = redis.call('ZRANGEBYSCORE', key, '(' .. string.format('%.0f', now), '+inf')
      end
      return routes
    end,
    flags = { 'no-writes' },
  }
end
