-- session_begin(index, hash, id, now_ms, expires_at, idle_ms, most, at_cap, fields): begin a session.
--
-- expires_at  its latest end, idle_ms  milliseconds without use after which it ends
-- most        most sessions of a user; at_cap  'refuse' the new one beyond, or 'end_oldest'
-- fields      fields and values of the hash, but for the times
--
-- Returns {'ok', created_at, expires_at, ids of ended sessions ...}, or {'cap'} when it is refused.
--
-- The session that makes room is the one that would end first: by its idle timeout or by its latest
-- end, whichever comes sooner. Expired ones are dropped before, so that none of them counts.
local function session_begin(index, hash, id, now_ms, expires_at, idle_ms, most, at_cap, fields)
  server.call('ZREMRANGEBYSCORE', index, '-inf', now_ms)
  local reply = {'ok', string.format('%.0f', now_ms), string.format('%.0f', expires_at)}
  local beyond = server.call('ZCARD', index) - most + 1
  if beyond > 0 then
    if at_cap == 'refuse' then return {'cap'} end
    local ended = server.call('ZPOPMIN', index, beyond)
    for i = 1, #ended, 2 do reply[#reply + 1] = ended[i] end
  end
  server.call('HSET', hash, 'created_at', reply[2], 'expires_at', reply[3], 'last_seen', reply[2],
    'rotated_at', reply[2], unpack(fields))
  server.call('PEXPIREAT', hash, reply[3])
  server.call('ZADD', index, string.format('%.0f', math.min(expires_at, now_ms + idle_ms)), id)
  if server.call('PEXPIRETIME', index) < expires_at then
    server.call('PEXPIREAT', index, reply[3])
  end
  return reply
end
