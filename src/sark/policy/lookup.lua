-- policy_lookup(first, nonce, user_ttl_ms): a cached decision with the generations that judge it.
--
-- KEYS[first]      policy:generation                  everything
-- KEYS[first + 1]  policy:version:<policy>            one policy
-- KEYS[first + 2]  policy:user_version:<user_id>      one user, with a TTL
-- KEYS[first + 3]  policy:decision:<hash>             absent when another server holds it
-- nonce            text that no other call ever uses: makes tokens unrepeatable
-- user_ttl_ms      life of a user's token; renewed when less than half of it is left
--
-- Returns {generation, policy token, user token, decision or false, TTL left in milliseconds, now}.
-- Missing tokens are created, and then there is no decision: absence never matches a stamp. The TTL
-- is -2 without a decision, and -3 when the user's token was created or renewed as well, of which
-- the change feed will tell. `now` is when an evaluation that follows began, by the server's clock.
--
-- The user's token is renewed when there is no decision, which is when one is about to be stored. A
-- decision that does outlive its user's token (stored over a stale one, or ahead of expiry) costs a
-- miss then: a new token never matches its stamp.
--
-- Atomic because the decision must be judged by tokens that were current when it was read, and
-- because a token that two callers create at once must be one token.
local function policy_lookup(first, nonce, user_ttl_ms)
  local ttl = -2
  local found = server.call('MGET', unpack(KEYS, first, math.min(first + 3, #KEYS)))
  if found[1] and found[2] and found[3] then
    if found[4] then
      found[5] = server.call('PTTL', KEYS[first + 3])
      found[6] = now_us()
      return found
    end
    if server.call('PTTL', KEYS[first + 2]) < user_ttl_ms / 2 then
      server.call('PEXPIRE', KEYS[first + 2], user_ttl_ms)
      ttl = -3
    end
  else
    if not found[3] then ttl = -3 end
    for i = 1, 3 do
      if not found[i] then
        found[i] = next_token(false, nonce)
        server.call('SET', KEYS[first + i - 1], found[i])
      end
    end
    server.call('PEXPIRE', KEYS[first + 2], user_ttl_ms)
  end
  return {found[1], found[2], found[3], false, ttl, now_us()}
end
