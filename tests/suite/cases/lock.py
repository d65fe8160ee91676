"""Object Lock."""

from kit import *


def days(n):
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(days=n)


def locked():
    return bucket(ObjectLockEnabledForBucket=True)


def default(mode='GOVERNANCE', **period):
    return {'ObjectLockEnabled': 'Enabled', 'Rule': {'DefaultRetention': {'Mode': mode, **period}}}


def retain(b, k, mode, until, client=None, **kw):
    return (client or main()).put_object_retention(
        Bucket=b, Key=k, Retention={'Mode': mode, 'RetainUntilDate': until}, **kw
    )


@case('lock')
def test_object_lock_put_obj_lock():
    b = locked()
    eq(main().get_bucket_versioning(Bucket=b)['Status'], 'Enabled')
    for c in (default(Days=1), default('COMPLIANCE', Years=1)):
        main().put_object_lock_configuration(Bucket=b, ObjectLockConfiguration=c)
        eq(main().get_object_lock_configuration(Bucket=b)['ObjectLockConfiguration'], c)


def bad_lock(name, config, status, code, make=locked):
    @case('lock', name)
    def run():
        refused(status, code, main().put_object_lock_configuration, Bucket=make(), ObjectLockConfiguration=config)


bad_lock('test_object_lock_put_obj_lock_invalid_bucket', default(Days=1), 409, 'InvalidBucketState', bucket)
bad_lock('test_object_lock_put_obj_lock_with_days_and_years', default(Days=1, Years=1), 400, 'MalformedXML')
bad_lock('test_object_lock_put_obj_lock_invalid_days', default(Days=0), 400, 'InvalidRetentionPeriod')
bad_lock('test_object_lock_put_obj_lock_invalid_years', default(Years=-1), 400, 'InvalidRetentionPeriod')
bad_lock('test_object_lock_put_obj_lock_invalid_mode', default('abc', Years=1), 400, 'MalformedXML')
bad_lock(
    'test_object_lock_put_obj_lock_invalid_status',
    {**default(Years=1), 'ObjectLockEnabled': 'Disabled'},
    400,
    'MalformedXML',
)


@case('lock')
def test_object_lock_put_obj_lock_enable_after_create():
    b = bucket()
    refused(
        409,
        'InvalidBucketState',
        main().put_object_lock_configuration,
        Bucket=b,
        ObjectLockConfiguration=default(Days=1),
    )
    main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
    suspend(b)
    refused(
        409,
        'InvalidBucketState',
        main().put_object_lock_configuration,
        Bucket=b,
        ObjectLockConfiguration=default(Days=1),
    )
    main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
    main().put_object_lock_configuration(Bucket=b, ObjectLockConfiguration=default(Days=1))


@case('lock')
def test_object_lock_suspend_versioning():
    b = locked()
    refused(409, 'InvalidBucketState', suspend, b)


@case('lock')
def test_object_lock_get_obj_lock():
    test = locked()
    main().put_object_lock_configuration(Bucket=test, ObjectLockConfiguration=default(Days=1))
    eq(main().get_object_lock_configuration(Bucket=test)['ObjectLockConfiguration'], default(Days=1))


@case('lock')
def test_object_lock_get_obj_lock_invalid_bucket():
    refused(404, 'ObjectLockConfigurationNotFoundError', main().get_object_lock_configuration, Bucket=bucket())


def retained(until, mode='GOVERNANCE'):
    b = locked()
    v = main().put_object(Bucket=b, Key='file1', Body=b'abc')['VersionId']
    retain(b, 'file1', mode, until)
    return b, v


@case('lock')
def test_object_lock_put_obj_retention():
    far = datetime.datetime(2140, 1, 1, tzinfo=datetime.timezone.utc)
    b, v = retained(far)
    eq(main().get_object_retention(Bucket=b, Key='file1')['Retention']['RetainUntilDate'], far)
    main().delete_object(Bucket=b, Key='file1', VersionId=v, BypassGovernanceRetention=True)


@case('lock')
def test_object_lock_put_obj_retention_invalid_bucket():
    b = fill(['file1'])
    refused(400, 'InvalidRequest', retain, b, 'file1', 'GOVERNANCE', days(1))


@case('lock')
def test_object_lock_put_obj_retention_invalid_mode():
    b = locked()
    main().put_object(Bucket=b, Key='file1', Body=b'abc')
    for m in ('governance', 'abc'):
        refused(400, 'MalformedXML', retain, b, 'file1', m, days(1))


@case('lock')
def test_object_lock_get_obj_retention():
    u = days(3)
    b, v = retained(u)
    eq(main().get_object_retention(Bucket=b, Key='file1')['Retention'], {'Mode': 'GOVERNANCE', 'RetainUntilDate': u})


@case('lock')
def test_object_lock_get_obj_retention_invalid_bucket():
    refused(400, 'InvalidRequest', main().get_object_retention, Bucket=fill(['f']), Key='f')


@case('lock')
def test_object_lock_put_obj_retention_versionid():
    b = locked()
    v = main().put_object(Bucket=b, Key='file1', Body=b'abc')['VersionId']
    main().put_object(Bucket=b, Key='file1', Body=b'abc')
    u = days(2)
    retain(b, 'file1', 'GOVERNANCE', u, VersionId=v)
    eq(main().get_object_retention(Bucket=b, Key='file1', VersionId=v)['Retention']['RetainUntilDate'], u)


@case('lock')
def test_object_lock_put_obj_retention_override_default_retention():
    b = locked()
    main().put_object_lock_configuration(Bucket=b, ObjectLockConfiguration=default(Days=1))
    main().put_object(Bucket=b, Key='file1', Body=b'abc')
    u = days(3)
    retain(b, 'file1', 'GOVERNANCE', u)
    eq(main().get_object_retention(Bucket=b, Key='file1')['Retention']['RetainUntilDate'], u)


@case('lock')
def test_object_lock_put_obj_retention_increase_period():
    b, v = retained(days(2))
    u = days(3)
    retain(b, 'file1', 'GOVERNANCE', u)
    eq(main().get_object_retention(Bucket=b, Key='file1')['Retention']['RetainUntilDate'], u)


@case('lock')
def test_object_lock_put_obj_retention_shorten_period():
    b, v = retained(days(3))
    refused(403, 'AccessDenied', retain, b, 'file1', 'GOVERNANCE', days(1))


@case('lock')
def test_object_lock_put_obj_retention_shorten_period_bypass():
    b, v = retained(days(3))
    u = days(1)
    retain(b, 'file1', 'GOVERNANCE', u, BypassGovernanceRetention=True)
    eq(main().get_object_retention(Bucket=b, Key='file1')['Retention']['RetainUntilDate'], u)


@case('lock')
def test_object_lock_delete_object_with_retention():
    b, v = retained(days(1))
    refused(403, 'AccessDenied', main().delete_object, Bucket=b, Key='file1', VersionId=v)
    main().delete_object(Bucket=b, Key='file1', VersionId=v, BypassGovernanceRetention=True)


@case('lock')
def test_object_lock_delete_object_with_retention_and_marker():
    b, v = retained(days(1))
    m = main().delete_object(Bucket=b, Key='file1')
    refused(403, 'AccessDenied', main().delete_object, Bucket=b, Key='file1', VersionId=v)
    main().delete_object(Bucket=b, Key='file1', VersionId=m['VersionId'])
    main().delete_object(Bucket=b, Key='file1', VersionId=v, BypassGovernanceRetention=True)


@case('lock')
def test_object_lock_multi_delete_object_with_retention():
    b, v1 = retained(days(1))
    v2 = main().put_object(Bucket=b, Key='file2', Body=b'x')['VersionId']
    o = {'Objects': [{'Key': 'file1', 'VersionId': v1}, {'Key': 'file2', 'VersionId': v2}]}
    r = main().delete_objects(Bucket=b, Delete=o)
    eq(
        ([d['Key'] for d in r['Deleted']], [(e['Code'], e['Key'], e['VersionId']) for e in r['Errors']]),
        (['file2'], [('AccessDenied', 'file1', v1)]),
    )
    r = main().delete_objects(Bucket=b, Delete={'Objects': o['Objects'][:1]}, BypassGovernanceRetention=True)
    eq('Errors' in r, False)


def multipart_lock(name, kw, undo):
    @case('lock', name)
    def run():
        b = locked()
        up, l, _ = parts_upload(main(), b, 'file1', [3], **kw())
        v = complete(main(), b, 'file1', up, l)['VersionId']
        refused(403, 'AccessDenied', main().delete_object, Bucket=b, Key='file1', VersionId=v)
        undo(b, v)


multipart_lock(
    'test_object_lock_delete_multipart_object_with_retention',
    lambda: {'ObjectLockMode': 'GOVERNANCE', 'ObjectLockRetainUntilDate': days(1)},
    lambda b, v: main().delete_object(Bucket=b, Key='file1', VersionId=v, BypassGovernanceRetention=True),
)
multipart_lock(
    'test_object_lock_delete_multipart_object_with_legal_hold_on',
    lambda: {'ObjectLockLegalHoldStatus': 'ON'},
    lambda b, v: (
        main().put_object_legal_hold(Bucket=b, Key='file1', LegalHold={'Status': 'OFF'}),
        main().delete_object(Bucket=b, Key='file1', VersionId=v),
    ),
)


@case('lock')
def test_object_lock_put_legal_hold():
    b = locked()
    main().put_object(Bucket=b, Key='f', Body=b'')
    for s in ('ON', 'OFF'):
        main().put_object_legal_hold(Bucket=b, Key='f', LegalHold={'Status': s})
        eq(main().get_object_legal_hold(Bucket=b, Key='f')['LegalHold']['Status'], s)


@case('lock')
def test_object_lock_get_legal_hold():
    test_object_lock_put_legal_hold()


@case('lock')
def test_object_lock_put_legal_hold_invalid_bucket():
    refused(
        400, 'InvalidRequest', main().put_object_legal_hold, Bucket=fill(['f']), Key='f', LegalHold={'Status': 'ON'}
    )


@case('lock')
def test_object_lock_get_legal_hold_invalid_bucket():
    refused(400, 'InvalidRequest', main().get_object_legal_hold, Bucket=fill(['f']), Key='f')


@case('lock')
def test_object_lock_put_legal_hold_invalid_status():
    b = locked()
    main().put_object(Bucket=b, Key='f', Body=b'')
    refused(400, 'MalformedXML', main().put_object_legal_hold, Bucket=b, Key='f', LegalHold={'Status': 'abc'})


@case('lock')
def test_object_lock_delete_object_with_legal_hold_on():
    b = locked()
    v = main().put_object(Bucket=b, Key='f', Body=b'')['VersionId']
    main().put_object_legal_hold(Bucket=b, Key='f', LegalHold={'Status': 'ON'})
    refused(403, 'AccessDenied', main().delete_object, Bucket=b, Key='f', VersionId=v, BypassGovernanceRetention=True)
    main().put_object_legal_hold(Bucket=b, Key='f', LegalHold={'Status': 'OFF'})
    main().delete_object(Bucket=b, Key='f', VersionId=v)


@case('lock')
def test_object_lock_delete_object_with_legal_hold_off():
    b = locked()
    v = main().put_object(Bucket=b, Key='f', Body=b'')['VersionId']
    main().put_object_legal_hold(Bucket=b, Key='f', LegalHold={'Status': 'OFF'})
    main().delete_object(Bucket=b, Key='f', VersionId=v)


@case('lock')
def test_object_lock_get_obj_metadata():
    u = days(2)
    b, v = retained(u)
    main().put_object_legal_hold(Bucket=b, Key='file1', LegalHold={'Status': 'ON'})
    h = main().head_object(Bucket=b, Key='file1')
    eq((h['ObjectLockMode'], h['ObjectLockRetainUntilDate'], h['ObjectLockLegalHoldStatus']), ('GOVERNANCE', u, 'ON'))


@case('lock')
def test_object_lock_uploading_obj():
    b = locked()
    u = days(1)
    main().put_object(
        Bucket=b,
        Key='f',
        Body=b'',
        ObjectLockMode='GOVERNANCE',
        ObjectLockRetainUntilDate=u,
        ObjectLockLegalHoldStatus='ON',
    )
    h = main().head_object(Bucket=b, Key='f')
    eq((h['ObjectLockMode'], h['ObjectLockRetainUntilDate'], h['ObjectLockLegalHoldStatus']), ('GOVERNANCE', u, 'ON'))


def mode_change(name, first, second, status, **kw):
    @case('lock', name)
    def run():
        u = days(1)
        b = locked()
        main().put_object(Bucket=b, Key='f', Body=b'', ObjectLockMode=first, ObjectLockRetainUntilDate=u)
        if status == 200:
            retain(b, 'f', second, u, **kw)
        else:
            refused(status, 'AccessDenied', retain, b, 'f', second, u, **kw)


mode_change(
    'test_object_lock_changing_mode_from_governance_with_bypass',
    'GOVERNANCE',
    'COMPLIANCE',
    200,
    BypassGovernanceRetention=True,
)
mode_change('test_object_lock_changing_mode_from_governance_without_bypass', 'GOVERNANCE', 'COMPLIANCE', 403)
mode_change('test_object_lock_changing_mode_from_compliance', 'COMPLIANCE', 'GOVERNANCE', 403)


@case('lock')
def test_object_lock_get_obj_retention_iso8601():
    u = days(1)
    b, v = retained(u)
    h = main().head_object(Bucket=b, Key='file1', VersionId=v)['ResponseMetadata']['HTTPHeaders']
    eq(
        bool(
            re.match(r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$', h['x-amz-object-lock-retain-until-date'])
        ),
        True,
    )
    main().delete_object(Bucket=b, Key='file1', VersionId=v, BypassGovernanceRetention=True)
