-- End all sessions of a user, or all but one.
--
-- KEYS[1]  session:index:<user_id>
-- KEYS[2]  session:not_before:<user_id>
-- ARGV[1]  id of the session to keep; empty to end all
-- ARGV[2]  milliseconds for which the time of the end is remembered
--
-- Returns the ids of the sessions that were alive and are no more; at most as many as the largest
-- cap. Their hashes are keys that the caller could not name before: it removes them afterwards.
-- As with one session, it always writes. Tokens of outside providers that were not seen yet and were
-- issued before begin no session afterwards.
--
-- Atomic because a login at the same time either is ended too or is not touched.
local now_ms = string.format('%.0f', math.floor(now_us() / 1000))
server.call('SET', KEYS[2], now_ms, 'PX', ARGV[2])
server.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
local ended = {}
for _, id in ipairs(server.call('ZRANGE', KEYS[1], 0, -1)) do
  if id ~= ARGV[1] then
    server.call('ZREM', KEYS[1], id)
    ended[#ended + 1] = id
  end
end
return ended
