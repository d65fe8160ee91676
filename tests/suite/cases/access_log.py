"""Server access logs: what is asked of their target."""

from kit import *

PREFIX = 'log/'


def deliver(target, source, account, **change):
    """The policy that lets the log service write for one source."""
    statement = {
        'Effect': 'Allow',
        'Principal': {'Service': 'logging.s3.amazonaws.com'},
        'Action': ['s3:PutObject'],
        'Resource': arn(target, '/' + PREFIX),
        'Condition': {
            'ArnLike': {'aws:SourceArn': arn(source)},
            'StringEquals': {'aws:SourceAccount': account},
        },
        **change,
    }
    main().put_bucket_policy(Bucket=target, Policy=policy(target, statement))


def log_to(source, target, client=None, **more):
    status = {'LoggingEnabled': {'TargetBucket': target, 'TargetPrefix': PREFIX, **more}}
    return (client or main()).put_bucket_logging(Bucket=source, BucketLoggingStatus=status)


def pair():
    source, target = bucket(), bucket()
    deliver(target, source, user_id('main'))
    return source, target


@case('logging')
def test_put_bucket_logging():
    for more in (
        {},
        {'TargetObjectKeyFormat': {'SimplePrefix': {}}},
        {'TargetObjectKeyFormat': {'PartitionedPrefix': {'PartitionDateSource': 'DeliveryTime'}}},
        {'TargetObjectKeyFormat': {'PartitionedPrefix': {'PartitionDateSource': 'EventTime'}}},
    ):
        source, target = pair()
        log_to(source, target, **more)
        found = main().get_bucket_logging(Bucket=source)['LoggingEnabled']
        eq((found['TargetBucket'], found['TargetPrefix']), (target, PREFIX))
        for name, value in more.items():
            eq(found[name], value)


@case('logging')
def test_put_bucket_logging_errors():
    source, target = pair()
    refused(404, 'NoSuchBucket', log_to, source + 'kaboom', target)
    refused(404, 'NoSuchKey', log_to, source, target + 'kaboom')
    second = bucket()
    deliver(target, second, user_id('main'))
    log_to(second, target)
    deliver(second, source, user_id('main'))
    refused(400, 'InvalidArgument', log_to, source, second)
    deliver(target, source, user_id('main'))
    wrong = {'PartitionedPrefix': {'PartitionDateSource': 'kaboom'}}
    refused(400, 'MalformedXML', log_to, source, target, TargetObjectKeyFormat=wrong)
    deliver(source, source, user_id('main'))
    refused(400, 'InvalidArgument', log_to, source, source)
    apply = {'Rules': [{'ApplyServerSideEncryptionByDefault': {'SSEAlgorithm': 'AES256'}}]}
    main().put_bucket_encryption(Bucket=target, ServerSideEncryptionConfiguration=apply)
    refused(400, 'InvalidArgument', log_to, source, target)
    third = bucket()
    deliver(third, source, user_id('main'))
    main().put_bucket_request_payment(Bucket=third, RequestPaymentConfiguration={'Payer': 'Requester'})
    refused(400, 'InvalidArgument', log_to, source, third)


@case('logging')
def test_put_bucket_logging_permissions():
    source, target = bucket(), bucket()
    refused(403, 'AccessDenied', log_to, source, target)
    good = user_id('main')
    of = lambda source_arn, account: {
        'ArnLike': {'aws:SourceArn': source_arn},
        'StringEquals': {'aws:SourceAccount': account},
    }
    for change in (
        {'Principal': {'AWS': '*'}},
        {'Principal': {'Service': 'logging.s3.amazonaws.comkaboom'}},
        {'Action': ['s3:GetObject']},
        {'Resource': arn(target, '/kaboom')},
        {'Condition': of(arn('kaboom'), good)},
        {'Condition': of(arn(source), 'kaboom')},
    ):
        deliver(target, source, good, **change)
        refused(403, 'AccessDenied', log_to, source, target)
    deliver(target, source, good)
    log_to(source, target)


@case('logging')
def test_put_bucket_logging_policy_wildcard():
    for change in ({'Resource': lambda t: arn(t, '/*')}, {'Resource': lambda t: arn(t, '/log*')}):
        source, target = bucket(), bucket()
        deliver(target, source, user_id('main'), **{k: v(target) for k, v in change.items()})
        log_to(source, target)


@case('logging')
def test_rm_bucket_logging():
    source, target = pair()
    log_to(source, target)
    main().put_bucket_logging(Bucket=source, BucketLoggingStatus={})
    eq('LoggingEnabled' in main().get_bucket_logging(Bucket=source), False)


@case('logging')
def test_bucket_logging_owner():
    source, target = pair()
    everybody = {'Effect': 'Allow', 'Principal': '*', 'Action': ['s3:PutBucketLogging']}
    main().put_bucket_policy(Bucket=source, Policy=policy(source, everybody))
    refused(403, 'AccessDenied', log_to, source, target, alt())
    log_to(source, target)
    refused(403, 'AccessDenied', alt().put_bucket_logging, Bucket=source, BucketLoggingStatus={})
