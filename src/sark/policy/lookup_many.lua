-- policy_lookup_many(first, policies, nonce, user_ttl_ms): many decisions about one user.
--
-- KEYS[first]                  policy:generation
-- KEYS[first + 1]              policy:user_version:<user_id>, with a TTL
-- KEYS[first + 2 ..]           policy:version:<policy> of so many policies
-- the rest of KEYS             policy:decision:<hash>; none when another server holds them
-- nonce, user_ttl_ms           as in policy_lookup
--
-- Returns {{generation, user token, policy tokens ...}, {decision or false ...}, {TTL left ...}, now},
-- the last as in policy_lookup. Missing tokens are created: no decision can carry a stamp of them. At most a few thousand keys
-- (Lua's argument lists are bounded).
--
-- Atomic because every decision must be judged by tokens that were current when it was read.
local function policy_lookup_many(first, policies, nonce, user_ttl_ms)
  local count = 2 + policies
  local tokens = server.call('MGET', unpack(KEYS, first, first + count - 1))
  for i = 1, count do
    if not tokens[i] then
      tokens[i] = next_token(false, nonce)
      server.call('SET', KEYS[first + i - 1], tokens[i])
    end
  end
  if server.call('PTTL', KEYS[first + 1]) < user_ttl_ms / 2 then
    server.call('PEXPIRE', KEYS[first + 1], user_ttl_ms)
  end
  local decisions, ttls, at = {}, {}, first + count
  if KEYS[at] then decisions = server.call('MGET', unpack(KEYS, at, #KEYS)) end
  for i = 1, #KEYS - at + 1 do
    ttls[i] = decisions[i] and server.call('PTTL', KEYS[at + i - 1]) or -2
  end
  return {tokens, decisions, ttls, now_us()}
end
