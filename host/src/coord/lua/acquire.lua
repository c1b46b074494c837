-- KEYS: the lock, its last token. ARGV: ttl in ms. Returns the token; 0: another has it.
-- A token is later than the one before and than the clock, so that it also rises when all was lost.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local token = math.max(tonumber(redis.call('GET', KEYS[2]) or 0) + 1, now)
local text = string.format('%.0f', token)
redis.call('SET', KEYS[1], text, 'PX', ARGV[1])
redis.call('SET', KEYS[2], text, 'PX', 86400000)
return token
