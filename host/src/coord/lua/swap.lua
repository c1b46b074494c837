-- KEYS: the hash of cells. ARGV: the generation seen, name, expected, new; '' is a cell that is not there.
-- Returns {1, ''}; {0, what it holds}; {2, ''}: another generation.
if redis.call('HGET', KEYS[1], '#generation') ~= ARGV[1] then return {2, ''} end
local found = redis.call('HGET', KEYS[1], ARGV[2]) or ''
if found ~= ARGV[3] then return {0, found} end
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[1], ARGV[2])
else
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
end
redis.call('HINCRBY', KEYS[1], '#version', 1)
return {1, ''}
