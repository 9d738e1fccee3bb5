-- Note that a record's count has been told: end it, or leave what was counted since.
--
-- KEYS     the first three of refusals_close
-- ARGV     name, closing event and refusals of each record, in turns, as they were claimed
--
-- Returns how many records were ended. Atomic because a refusal may be counted at any moment.
local ended = 0
for i = 1, #ARGV, 3 do
  local name, told = ARGV[i], tonumber(ARGV[i + 2])
  if (server.call('HGET', KEYS[1], name) or '') == ARGV[i + 1] then
    if tonumber(server.call('HGET', KEYS[2], name) or 1) > told then
      server.call('HINCRBY', KEYS[2], name, 1 - told)
    else
      server.call('HDEL', KEYS[1], name)
      server.call('HDEL', KEYS[2], name)
      server.call('ZREM', KEYS[3], name)
      ended = ended + 1
    end
  end
end
return ended
