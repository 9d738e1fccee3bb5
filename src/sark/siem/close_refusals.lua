-- Close the records of refused identities whose window has ended.
--
-- KEYS     as in refusals_close
-- ARGV[1]  time for the closing events, ARGV[2] most events, ARGV[3] most bytes
-- ARGV[4..]  ids for the closing events: at most so many records are closed in this call
--
-- Returns how many records were closed.
local now_ms = string.format('%.0f', now_us() / 1000)
local names = server.call('ZRANGE', KEYS[3], '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, #ARGV - 3)
local closed = 0
for i, name in ipairs(names) do
  local id = ARGV[3 + i]
  if not refusals_close(name, id, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])) then break end
  closed = closed + 1
end
return closed
