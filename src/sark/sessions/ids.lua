-- List the ids of a user's sessions that are alive, those that end first before the others.
--
-- KEYS[1]  session:index:<user_id>
--
-- Atomic because the server's clock judges what it lists.
local now_ms = string.format('%.0f', math.floor(now_us() / 1000))
return server.call('ZRANGE', KEYS[1], '(' .. now_ms, '+inf', 'BYSCORE')
