-- policy_lookup(first, nonce, user_ttl_ms): a cached decision with the generations that judge it.
--
-- KEYS[first] to KEYS[first + 2]  as in policy_generations
-- KEYS[first + 3]                 policy:decision:<hash>; absent when another server holds it
--
-- Returns {generation, policy token, user token, decision or false, TTL left in milliseconds}.
--
-- Atomic because the decision must be judged by tokens that were current when it was read.
local function policy_lookup(first, nonce, user_ttl_ms)
  local tokens, created = policy_generations(first, nonce, user_ttl_ms)
  local decision, ttl = false, -2
  if not created and KEYS[first + 3] then
    decision = server.call('GET', KEYS[first + 3])
    if decision then ttl = server.call('PTTL', KEYS[first + 3]) end
  end
  return {tokens[1], tokens[2], tokens[3], decision, ttl}
end
