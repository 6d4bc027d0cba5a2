# one.sh CMD...: through the queue, but never two of ours at once
while true; do
  bash -c 'exec 8>drafts/own.lock; flock -n 8 || exit 77; export OWN=1; exec "$@"' one "$@"
  rc=$?; [ $rc = 77 ] || exit $rc
  sleep 30
done
