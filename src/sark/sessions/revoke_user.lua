-- End all sessions of a user, or all but one.
--
-- KEYS[1]  session:index:<user_id>
-- ARGV[1]  id of the session to keep; empty to end all
--
-- Returns the ids of the sessions that were alive and are no more; at most as many as the largest
-- cap. Their hashes are keys that the caller could not name before: it removes them afterwards.
-- As with one session, it always writes.
--
-- Atomic because a login at the same time either is ended too or is not touched.
server.call('ZADD', KEYS[1], 0, '')
server.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', math.floor(now_us() / 1000)))
local ended = {}
for _, id in ipairs(server.call('ZRANGE', KEYS[1], 0, -1)) do
  if id ~= ARGV[1] then
    server.call('ZREM', KEYS[1], id)
    ended[#ended + 1] = id
  end
end
return ended
