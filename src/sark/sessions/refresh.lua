-- Trade a refresh token for its successor.
--
-- KEYS[1]  session:index:<user_id>
-- KEYS[2]  session:user:<user_id>:<session_id>
-- KEYS[3]  session:token:<jti> of the successor's access token
-- KEYS[4]  the same of the token before the presented one, if there is one
-- KEYS[5]  the same of four before the presented one, if there is one
-- ARGV[1]  session id
-- ARGV[2]  counter of the presented token, whose MAC the caller has verified
-- ARGV[3]  SHA-256 of the presented token, ARGV[4] of its successor
-- ARGV[5]  jti of the successor's access token
-- ARGV[6]  milliseconds in which a token that was already traded gives the current one again
-- ARGV[7]  milliseconds without use after which the session ends
-- ARGV[8]  milliseconds that an access token lives
-- ARGV[9], ARGV[10]  as the last two of session_check
-- ARGV[11]  by how much the counter may be ahead of the one that is stored
--
-- Returns {'ok', counter, hash, rotated_at, expires_at, now, client_id, tier} of the token that is
-- current now, with 'again' in place of 'ok' when this call did not trade; or why not: {'ended'},
-- {'unknown'}, {'network'}, {'user_agent'}, and {'reuse'}, which ends the session.
--
-- The counter tells a token's age. The current one is traded. One that was itself traded within the
-- grace gives the current one again, as everything about that follows from the counter and
-- rotated_at: at most the last four, whose trades are noted in rotated_at and rotated_before. An
-- older one, or one later, has been copied. A slightly higher one was issued by a server that forgot
-- its last writes when it was killed; its MAC says that it is ours, so it is the current one.
--
-- Access tokens of before the presented token's end after the grace, and those of four trades before
-- at once: however fast somebody refreshes, no more than five of a session are good.
--
-- Atomic because of many who trade one token at once exactly one may rotate it, and because a
-- logout must not be undone by a trade.
local index, hash, id = KEYS[1], KEYS[2], ARGV[1]
local now_ms, grace_ms = math.floor(now_us() / 1000), tonumber(ARGV[6])
local now = string.format('%.0f', now_ms)
if not session_live(index, hash, id, now_ms) then return {'ended'} end
local held = server.call('HMGET', hash, 'refresh_counter', 'refresh_token_hash', 'rotated_at',
  'expires_at', 'client_id', 'tier', 'network', 'agent', 'rotated_before')
if not held[4] then
  session_end(index, hash, id)
  return {'ended'}
end
-- A session without a counter is an outside provider's: it has no refresh tokens of ours.
if not held[1] then return {'unknown'} end
local foreign = session_foreign(held[7], held[8], ARGV[9], ARGV[10])
if foreign then return {foreign} end
local presented, current = tonumber(ARGV[2]), tonumber(held[1])
-- When the last tokens were traded, the latest first; only those that are within the grace.
local traded = {}
for at in string.gmatch(held[3] .. ' ' .. (held[9] or ''), '%d+') do
  if now_ms - tonumber(at) >= grace_ms then break end
  traded[#traded + 1] = at
end
if presented < current then
  if traded[current - presented] then
    return {'again', held[1], held[2], held[3], held[4], now, held[5] or '', held[6] or ''}
  end
  session_end(index, hash, id)
  return {'reuse'}
end
if presented > current + tonumber(ARGV[11]) then return {'unknown'} end
if presented == current and held[2] ~= ARGV[3] then return {'unknown'} end
-- The first rotated_at is that of the login, when nothing was traded. After forgotten trades it
-- isn't known which tokens the noted ones belong to.
if current == 0 or presented > current then traded = {} end
local counter, expires_at = string.format('%.0f', presented + 1), tonumber(held[4])
server.call('HSET', hash, 'refresh_counter', counter, 'refresh_token_hash', ARGV[4],
  'access_token_jti', ARGV[5], 'rotated_at', now)
if #traded > 0 then
  server.call('HSET', hash, 'rotated_before', table.concat(traded, ' ', 1, math.min(#traded, 3)))
elseif held[9] then
  server.call('HDEL', hash, 'rotated_before')
end
session_seen(index, hash, id, now_ms, expires_at, tonumber(ARGV[7]))
local token_ms = math.min(tonumber(ARGV[8]), expires_at - now_ms)
server.call('SET', KEYS[3], id, 'PX', string.format('%.0f', token_ms))
if KEYS[4] then server.call('PEXPIRE', KEYS[4], ARGV[6], 'LT') end
if KEYS[5] then server.call('UNLINK', KEYS[5]) end
return {'ok', counter, ARGV[4], now, held[4], now, held[5] or '', held[6] or ''}
