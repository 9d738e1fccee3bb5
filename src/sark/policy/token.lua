-- next_token(previous, nonce): the generation token that follows `previous`.
--
-- A token is <microseconds>-<nonce>: the server's clock, or one more than the previous token when
-- that is later, and a text that no other call ever uses. So tokens are ordered and never repeat.
local function next_token(previous, nonce)
  local at = now_us()
  if previous then
    local last = tonumber(string.match(previous, '^(%d+)'))
    if last and last >= at then at = last + 1 end
  end
  return string.format('%.0f', at) .. '-' .. nonce
end
