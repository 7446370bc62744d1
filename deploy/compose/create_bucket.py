"""Creates the bucket `S3_BUCKET` where `AWS_ENDPOINT_URL` leads, as soon as the store answers."""

import os
import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

PATIENCE_S = 60.0
PAUSE_S = 0.5
EXISTS = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}

bucket = os.environ["S3_BUCKET"]
until = time.monotonic() + PATIENCE_S
while True:
    try:
        boto3.client("s3").create_bucket(Bucket=bucket)
        break
    except ClientError as error:
        if error.response["Error"]["Code"] in EXISTS:
            break
        reason = str(error)
    except BotoCoreError as error:
        reason = str(error)
    if time.monotonic() > until:
        sys.exit(f"the bucket {bucket} cannot be created: {reason}")
    time.sleep(PAUSE_S)
sys.stdout.write(f"the bucket {bucket} is there\n")
