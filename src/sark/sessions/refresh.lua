-- Trade a refresh token for its successor.
--
-- KEYS[1]  session:index:<user_id>
-- KEYS[2]  session:user:<user_id>:<session_id>
-- KEYS[3]  session:token:<jti> of the successor's access token
-- ARGV[1]  session id
-- ARGV[2]  counter of the presented token, whose MAC the caller has verified
-- ARGV[3]  SHA-256 of the presented token, ARGV[4] of its successor
-- ARGV[5]  jti of the successor's access token
-- ARGV[6]  milliseconds in which a token that was already traded gives the same successor again
-- ARGV[7]  milliseconds without use after which the session ends
-- ARGV[8]  milliseconds that an access token lives
-- ARGV[9], ARGV[10]  as the last two of session_check
--
-- Returns {'ok', rotated_at, expires_at, client_id, tier}; or why not: {'ended'}, {'unknown'},
-- {'network'}, {'user_agent'}, and {'reuse'}, which ends the session.
--
-- The counter tells a token's age. The current one is traded. The one before it gives the same
-- successor within the grace, as everything about that follows from the counter and rotated_at. An
-- older one, or that one later, has been copied. A higher one was issued by a server that forgot
-- its last writes when it was killed; its MAC says that it is ours, so it is the current one.
--
-- Atomic because of many who trade one token at once exactly one may rotate it, and because a
-- logout must not be undone by a trade.
local index, hash, id = KEYS[1], KEYS[2], ARGV[1]
local now_ms = math.floor(now_us() / 1000)
if not session_live(index, hash, id, now_ms) then return {'ended'} end
local held = server.call('HMGET', hash, 'refresh_counter', 'refresh_token_hash', 'rotated_at',
  'expires_at', 'client_id', 'tier', 'network', 'agent')
if not held[4] then
  session_end(index, hash, id)
  return {'ended'}
end
-- A session without a counter is an outside provider's: it has no refresh tokens of ours.
if not held[1] then return {'unknown'} end
local foreign = session_foreign(held[7], held[8], ARGV[9], ARGV[10])
if foreign then return {foreign} end
local presented, current = tonumber(ARGV[2]), tonumber(held[1])
if presented < current then
  if presented == current - 1 and now_ms - tonumber(held[3]) < tonumber(ARGV[6]) then
    return {'ok', held[3], held[4], held[5] or '', held[6] or ''}
  end
  session_end(index, hash, id)
  return {'reuse'}
end
if presented == current and held[2] ~= ARGV[3] then return {'unknown'} end
local rotated_at, expires_at = string.format('%.0f', now_ms), tonumber(held[4])
server.call('HSET', hash, 'refresh_counter', string.format('%.0f', presented + 1), 'refresh_token_hash',
  ARGV[4], 'access_token_jti', ARGV[5], 'rotated_at', rotated_at)
session_seen(index, hash, id, now_ms, expires_at, tonumber(ARGV[7]))
local token_ms = math.min(tonumber(ARGV[8]), expires_at - now_ms)
server.call('SET', KEYS[3], id, 'PX', string.format('%.0f', token_ms))
return {'ok', rotated_at, held[4], held[5] or '', held[6] or ''}
