"""Lifecycle."""

from kit import *


def rule(i, **kw):
    """A rule, in the older form (the prefix beside the filter) where no filter is given."""
    prefix = kw.pop('prefix', '')
    return {'ID': i, 'Status': 'Enabled', **({} if 'Filter' in kw else {'Prefix': prefix}), **kw}


def set_rules(b, *rules):
    return main().put_bucket_lifecycle_configuration(Bucket=b, LifecycleConfiguration={'Rules': list(rules)})


DAYS = lambda n: {'Expiration': {'Days': n}}


def sets(name, *rules):
    @case('lifecycle', name)
    def run():
        b = bucket()
        set_rules(b, *rules)


sets(
    'test_lifecycle_set',
    rule('rule1', prefix='test1/', **DAYS(1)),
    {**rule('rule2', prefix='test2/', **DAYS(2)), 'Status': 'Disabled'},
)
sets('test_lifecycle_set_date', rule('rule1', prefix='test1/', Expiration={'Date': datetime.datetime(2037, 9, 27)}))
sets('test_lifecycle_set_noncurrent', rule('past', prefix='past/', NoncurrentVersionExpiration={'NoncurrentDays': 2}))
sets('test_lifecycle_set_deletemarker', rule('rule1', prefix='test1/', Expiration={'ExpiredObjectDeleteMarker': True}))
sets('test_lifecycle_set_filter', rule('rule1', prefix='foo', Expiration={'ExpiredObjectDeleteMarker': True}))
sets(
    'test_lifecycle_set_empty_filter',
    {'ID': 'rule1', 'Expiration': {'ExpiredObjectDeleteMarker': True}, 'Filter': {}, 'Status': 'Enabled'},
)
sets(
    'test_lifecycle_set_multipart',
    rule('rule1', prefix='test1/', AbortIncompleteMultipartUpload={'DaysAfterInitiation': 2}),
)


@case('lifecycle')
def test_lifecycle_get():
    b = bucket()
    r = [rule('test1/', prefix='test1/', **DAYS(31)), rule('test2/', prefix='test2/', **DAYS(120))]
    set_rules(b, *r)
    eq(main().get_bucket_lifecycle_configuration(Bucket=b)['Rules'], r)


@case('lifecycle')
def test_lifecycle_get_no_id():
    b = bucket()
    r = rule('x', prefix='test1/', **DAYS(31))
    del r['ID']
    set_rules(b, r)
    got = main().get_bucket_lifecycle_configuration(Bucket=b)['Rules'][0]
    eq((bool(got.pop('ID')), got), (True, r))


@case('lifecycle')
def test_lifecycle_delete():
    b = bucket()
    set_rules(b, rule('a', **DAYS(1)))
    main().delete_bucket_lifecycle(Bucket=b)
    refused(404, 'NoSuchLifecycleConfiguration', main().get_bucket_lifecycle_configuration, Bucket=b)


def bad_rules(name, code, *rules):
    @case('lifecycle', name)
    def run():
        refused(400, code, set_rules, bucket(), *rules)


bad_rules('test_lifecycle_id_too_long', 'InvalidArgument', rule('a' * 256, **DAYS(2)))
bad_rules(
    'test_lifecycle_same_id',
    'InvalidArgument',
    rule('rule1', prefix='a', **DAYS(1)),
    rule('rule1', prefix='b', **DAYS(2)),
)
bad_rules('test_lifecycle_invalid_status', 'MalformedXML', {**rule('rule1', **DAYS(2)), 'Status': 'enabled'})
bad_rules('test_lifecycle_expiration_days0', 'InvalidArgument', rule('rule1', prefix='days0/', **DAYS(0)))


def expiration(h):

    return re.search('expiry-date="(.+)", rule-id="(.+)"', h).groups()


def expiry_header(name, head):
    @case('lifecycle', name)
    def run():
        b = bucket()
        set_rules(b, rule('rule1', prefix='days1/', **DAYS(1)))
        start = datetime.datetime.utcnow()
        r = main().put_object(Bucket=b, Key='days1/foo', Body=b'')
        if head:
            r = main().head_object(Bucket=b, Key='days1/foo')
        date, i = expiration(r['Expiration'])
        eq(((datetime.datetime.strptime(date, '%a, %d %b %Y %H:%M:%S %Z') - start).days, i), (1, 'rule1'))


expiry_header('test_lifecycle_expiration_header_put', False)
expiry_header('test_lifecycle_expiration_header_head', True)


def tagged_header(name, rules_filter):
    @case('lifecycle', name)
    def run():
        b = bucket()
        set_rules(b, {'ID': 'rule1', 'Status': 'Enabled', 'Filter': rules_filter, **DAYS(1)})
        for tags, told in (('key1=tag1&key5=tag5', True), ('key2=tag2', False)):
            main().put_object(Bucket=b, Key='obj_key1', Body=b'x')
            tag_set = [dict(zip(('Key', 'Value'), t.split('='))) for t in tags.split('&')]
            main().put_object_tagging(Bucket=b, Key='obj_key1', Tagging={'TagSet': tag_set})
            start = datetime.datetime.utcnow()
            r = main().head_object(Bucket=b, Key='obj_key1')
            eq('Expiration' in r, told)
            if told:
                date, i = expiration(r['Expiration'])
                days = (datetime.datetime.strptime(date, '%a, %d %b %Y %H:%M:%S %Z') - start).days
                eq((days, i), (1, 'rule1'))


TAG = lambda k, v: {'Key': k, 'Value': v}
tagged_header('test_lifecycle_expiration_header_tags_head', {'Tag': TAG('key1', 'tag1')})
tagged_header(
    'test_lifecycle_expiration_header_and_tags_head', {'And': {'Tags': [TAG('key1', 'tag1'), TAG('key5', 'tag5')]}}
)

sets(
    'test_lifecycle_set_noncurrent_transition',
    rule(
        'rule1',
        prefix='test1/',
        NoncurrentVersionTransitions=[
            {'NoncurrentDays': 2, 'StorageClass': 'GLACIER'},
            {'NoncurrentDays': 4, 'StorageClass': 'DEEP_ARCHIVE'},
        ],
        NoncurrentVersionExpiration={'NoncurrentDays': 6},
    ),
    {
        **rule('rule2', prefix='test2/', NoncurrentVersionExpiration={'NoncurrentDays': 3}),
        'Status': 'Disabled',
    },
)
bad_rules(
    'test_lifecycle_set_invalid_date', None, rule('rule1', prefix='test1/', Expiration={'Date': '20200101'})
)
bad_rules(
    'test_lifecycle_transition_set_invalid_date',
    None,
    rule(
        'rule1',
        prefix='test1/',
        Expiration={'Date': '2023-09-27'},
        Transitions=[{'Date': '20220927', 'StorageClass': 'GLACIER'}],
    ),
)


def eventually(fn, wanted, lasts=4):
    # Days, and what a busy machine takes on top of them.
    end = time.time() + DAY * lasts + 120
    while time.time() < end:
        if fn() == wanted:
            return
        time.sleep(1)
    eq(fn(), wanted)


def expires(name, rules, ks, left, make=bucket, tags=None, seen=None):
    @case('lifecycle days', name)
    def run():
        b = make()
        set_rules(b, *rules)
        for k in ks:
            main().put_object(
                Bucket=b,
                Key=k,
                Body=b'x' * (2000 if 'big' in k else 10),
                **({'Tagging': tags[k]} if tags and k in tags else {}),
            )
        eventually(lambda: [o['Key'] for o in main().list_objects_v2(Bucket=b).get('Contents', [])], sorted(left))


KS = ['expire1/foo', 'expire1/bar', 'keep2/foo', 'keep2/bar']
for n in ('test_lifecycle_expiration', 'test_lifecyclev2_expiration'):
    expires(n, [rule('rule1', prefix='expire1/', **DAYS(1))], KS, ['keep2/foo', 'keep2/bar'])
expires(
    'test_lifecycle_expiration_date',
    [
        rule('rule1', prefix='past/', Expiration={'Date': datetime.datetime(2015, 1, 1)}),
        rule('rule2', prefix='future/', Expiration={'Date': datetime.datetime(2030, 1, 1)}),
    ],
    ['past/foo', 'future/bar'],
    ['future/bar'],
)
expires(
    'test_lifecycle_expiration_size_gt',
    [rule('r', Filter={'Prefix': '', 'ObjectSizeGreaterThan': 1000}, **DAYS(1))],
    ['small', 'big'],
    ['small'],
)
expires(
    'test_lifecycle_expiration_size_lt',
    [rule('r', Filter={'Prefix': '', 'ObjectSizeLessThan': 1000}, **DAYS(1))],
    ['small', 'big'],
    ['big'],
)
expires(
    'test_lifecycle_expiration_tags1',
    [rule('r', Filter={'Prefix': 'days1/', 'Tag': {'Key': 'tom', 'Value': 'sawyer'}}, **DAYS(1))],
    ['days1/tom', 'days1/huck'],
    ['days1/huck'],
    tags={'days1/tom': 'tom=sawyer'},
)
expires(
    'test_lifecycle_expiration_tags2',
    [
        # All of it has to hold, wherever it stands.
        rule(
            'r',
            Filter={
                'Prefix': 'days1/',
                'Tag': {'Key': 'tom', 'Value': 'sawyer'},
                'And': {'Prefix': 'days1', 'Tags': [{'Key': 'huck', 'Value': 'finn'}]},
            },
            **DAYS(1),
        )
    ],
    ['days1/tom', 'days1/huck'],
    ['days1/tom'],
    tags={'days1/tom': 'tom=sawyer', 'days1/huck': 'tom=sawyer&huck=finn'},
)


@case('lifecycle days')
def test_lifecycle_expiration_versioning_enabled():
    b = versioned()
    [main().put_object(Bucket=b, Key='expire1/foo', Body=b'x') for _ in range(1)]
    main().delete_object(Bucket=b, Key='expire1/foo')
    set_rules(b, rule('rule1', prefix='expire1/', **DAYS(1)))
    time.sleep(DAY * 3)
    r = main().list_object_versions(Bucket=b)
    eq((len(r['Versions']), len(r['DeleteMarkers'])), (1, 1))


@case('lifecycle days')
def test_lifecycle_noncur_expiration():
    b = versioned()
    set_rules(b, rule('r', prefix='test1/', NoncurrentVersionExpiration={'NoncurrentDays': 2}))
    for k in ('test1/a', 'test2/abc'):
        [main().put_object(Bucket=b, Key=k, Body=b'x') for _ in range(3)]
    eventually(lambda: len(main().list_object_versions(Bucket=b)['Versions']), 4, 6)


@case('lifecycle days')
def test_lifecycle_expiration_newer_noncurrent():
    b = versioned()
    [main().put_object(Bucket=b, Key='myobject_', Body=b'x') for _ in range(10)]
    set_rules(
        b, rule('r', prefix='myobject', NoncurrentVersionExpiration={'NoncurrentDays': 1, 'NewerNoncurrentVersions': 5})
    )
    eventually(lambda: len(main().list_object_versions(Bucket=b)['Versions']), 6, 5)


@case('lifecycle days')
def test_lifecycle_deletemarker_expiration():
    b = versioned()
    set_rules(
        b,
        rule(
            'r',
            prefix='test1/',
            NoncurrentVersionExpiration={'NoncurrentDays': 1},
            Expiration={'ExpiredObjectDeleteMarker': True},
        ),
    )
    for k in ('test1/a', 'test2/abc'):
        main().put_object(Bucket=b, Key=k, Body=b'x')
        main().delete_object(Bucket=b, Key=k)

    def count():
        r = main().list_object_versions(Bucket=b)
        return len(r.get('Versions', [])) + len(r.get('DeleteMarkers', []))

    eventually(count, 2, 7)


@case('lifecycle days')
def test_lifecycle_multipart_expiration():
    b = bucket()
    [main().create_multipart_upload(Bucket=b, Key=k) for k in ('test1/a', 'test2/b')]
    set_rules(b, rule('r', prefix='test1/', AbortIncompleteMultipartUpload={'DaysAfterInitiation': 2}))
    eventually(lambda: len(main().list_multipart_uploads(Bucket=b).get('Uploads', [])), 1, 5)


# The suite puts several conditions right under Filter; S3's schema wants And.
TOM_AND_HUCK = {'And': {'Prefix': '', 'Tags': [TAG('tom', 'sawyer'), TAG('huck', 'finn')]}}


@case('lifecycle days')
def test_lifecycle_expiration_versioned_tags2():
    b = versioned()
    set_rules(b, {'ID': 'r', 'Status': 'Enabled', 'Filter': TOM_AND_HUCK, **DAYS(1)})
    main().put_object(Bucket=b, Key='t1', Body=b'x', Tagging='tom=sawyer')
    main().put_object(Bucket=b, Key='t2', Body=b'x', Tagging='tom=sawyer&huck=finn')
    eventually(lambda: [o['Key'] for o in main().list_objects_v2(Bucket=b).get('Contents', [])], ['t1'])


@case('lifecycle days')
def test_lifecycle_expiration_noncur_tags1():
    b = versioned()
    only = {'Tag': TAG('vn', '1')}
    set_rules(b, {'ID': 'r', 'Status': 'Enabled', 'Filter': only, 'NoncurrentVersionExpiration': {'NoncurrentDays': 1}})
    ids = [main().put_object(Bucket=b, Key='k', Body=b'x', Tagging=f'vn={n}')['VersionId'] for n in (1, 2, 3)]
    left = lambda: [v['VersionId'] for v in main().list_object_versions(Bucket=b)['Versions']]
    eventually(left, [ids[2], ids[1]], 5)


@case('lifecycle days')
def test_lifecycle_deletemarker_expiration_with_days_tag():
    b = versioned()
    set_rules(
        b,
        {**rule('markers', prefix='test1/', Expiration={'Days': 3})},
        {**rule('old', prefix='test1/', NoncurrentVersionExpiration={'NoncurrentDays': 1})},
    )
    for k in ('test1/a', 'test2/abc'):
        main().put_object(Bucket=b, Key=k, Body=b'x')
        main().delete_object(Bucket=b, Key=k)

    def count():
        r = main().list_object_versions(Bucket=b)
        return len(r.get('Versions', [])) + len(r.get('DeleteMarkers', []))

    eventually(count, 2, 9)


# Storage classes

ARCHIVES = ('GLACIER', 'DEEP_ARCHIVE')


def classes(b, versions=False):
    if not versions:
        return {o['Key']: o['StorageClass'] for o in main().list_objects_v2(Bucket=b)['Contents']}
    return sorted(v['StorageClass'] for v in main().list_object_versions(Bucket=b)['Versions'])


def moves(name, body):
    case('lifecycle days', name)(body)


def transition(first, second=None, **put):
    b = bucket()
    steps = [{'Days': 1, 'StorageClass': first}, *([{'Days': 4, 'StorageClass': second}] if second else [])]
    set_rules(b, rule('rule1', prefix='expire1/', Transitions=steps))
    for k in ('expire1/foo', 'keep2/foo'):
        main().put_object(Bucket=b, Key=k, Body=b'x' * 200000, **put)
    for wanted, lasts in ((first, 4), (second, 6)):
        if wanted:
            eventually(lambda: classes(b), {'expire1/foo': wanted, 'keep2/foo': 'STANDARD'}, lasts)
    refused(403, 'InvalidObjectState', main().get_object, Bucket=b, Key='expire1/foo')
    eq(main().head_object(Bucket=b, Key='expire1/foo')['StorageClass'], second or first)


moves('test_lifecycle_transition', lambda: transition('GLACIER'))
moves('test_lifecycle_transition_single_rule_multi_trans', lambda: transition(*ARCHIVES))
moves('test_lifecycle_transition_encrypted', lambda: transition('GLACIER', ServerSideEncryption='AES256'))


@case('lifecycle days')
def test_lifecycle_noncur_transition():
    b = versioned()
    steps = [{'NoncurrentDays': 1, 'StorageClass': 'GLACIER'}, {'NoncurrentDays': 4, 'StorageClass': 'DEEP_ARCHIVE'}]
    set_rules(b, rule('rule1', prefix='test1/', NoncurrentVersionTransitions=steps))
    [main().put_object(Bucket=b, Key='test1/a', Body=b'x' * 200000) for _ in range(3)]
    eventually(lambda: classes(b, True), ['GLACIER', 'GLACIER', 'STANDARD'], 4)
    eventually(lambda: classes(b, True), ['DEEP_ARCHIVE', 'DEEP_ARCHIVE', 'STANDARD'], 7)


@case('lifecycle days')
def test_lifecycle_plain_null_version_current_transition():
    b = bucket()
    main().put_object(Bucket=b, Key='testobjfoo', Body=b'x' * 200000)
    main().put_bucket_versioning(Bucket=b, VersioningConfiguration={'Status': 'Enabled'})
    set_rules(b, rule('rule1', prefix='testobj', Transitions=[{'Days': 1, 'StorageClass': 'GLACIER'}]))
    eventually(lambda: classes(b), {'testobjfoo': 'GLACIER'}, 5)
    refused(403, 'InvalidObjectState', main().get_object, Bucket=b, Key='testobjfoo')
