-- policy_generations(first, nonce, user_ttl_ms): the three generation tokens that a decision
-- depends on; what is missing is created.
--
-- KEYS[first]      policy:generation                  everything
-- KEYS[first + 1]  policy:version:<policy>            one policy
-- KEYS[first + 2]  policy:user_version:<user_id>      one user, with a TTL
-- nonce            text that no other call ever uses: makes tokens unrepeatable
-- user_ttl_ms      life of a user's token; renewed when less than half of it is left
--
-- Returns the tokens and whether one was created. A caller that is told so must treat whatever
-- it finds cached as a miss: absence never matches a stamp.
--
-- Atomic because a token that two callers create at once must be one token, and because a token
-- that is renewed here may not expire between being read and being renewed.
local function next_token(previous, nonce)
  local at = now_us()
  if previous then
    local last = tonumber(string.match(previous, '^(%d+)'))
    if last and last >= at then at = last + 1 end
  end
  return string.format('%.0f', at) .. '-' .. nonce
end

local function policy_generations(first, nonce, user_ttl_ms)
  local tokens = server.call('MGET', KEYS[first], KEYS[first + 1], KEYS[first + 2])
  local created = false
  for i = 1, 3 do
    if not tokens[i] then
      tokens[i] = next_token(nil, nonce)
      created = true
      if i == 3 then
        server.call('SET', KEYS[first + 2], tokens[i], 'PX', user_ttl_ms)
      else
        server.call('SET', KEYS[first + i - 1], tokens[i])
      end
    elseif i == 3 and server.call('PTTL', KEYS[first + 2]) < user_ttl_ms / 2 then
      server.call('PEXPIRE', KEYS[first + 2], user_ttl_ms)
    end
  end
  return tokens, created
end
