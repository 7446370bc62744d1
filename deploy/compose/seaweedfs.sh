# Starts SeaweedFS with its S3 interface and one user, who may do everything.
umask 077
cat >/tmp/s3.json <<JSON
{"identities": [{
  "name": "evalrouter",
  "credentials": [{"accessKey": "evalrouter", "secretKey": "$S3_SECRET"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]
}]}
JSON
exec weed server -dir=/data -ip.bind=0.0.0.0 -volume.max=0 -s3 -s3.config=/tmp/s3.json
