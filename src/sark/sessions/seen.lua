-- session_seen(index, hash, id, now_ms, expires_at, idle_ms): note that a session is in use.
--
-- It then ends after idle_ms more without use, and never later than at expires_at. Only for a
-- session that session_live found alive in the same call: it must never come back.
local function session_seen(index, hash, id, now_ms, expires_at, idle_ms)
  server.call('HSET', hash, 'last_seen', string.format('%.0f', now_ms))
  server.call('ZADD', index, 'XX', string.format('%.0f', math.min(expires_at, now_ms + idle_ms)), id)
end
