-- Arguments: method, content type (may be empty), file of the body. The request is made once, before wrk measures,
-- and `done` runs once, after the last request: the script costs nothing in between.
function init(args)
  wrk.method = args[1]
  if args[2] ~= "" then
    wrk.headers["content-type"] = args[2]
  end
  local file = io.open(args[3], "rb")
  local body = file:read("*a")
  file:close()
  if #body > 0 or wrk.method == "POST" then
    wrk.body = body
  end
end

-- One line of JSON.
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "bad_status": %d, "socket_errors": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
