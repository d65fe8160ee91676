"""ACLs of buckets and objects."""

from kit import *

ALL, AUTH = (
    'http://acs.amazonaws.com/groups/global/AllUsers',
    'http://acs.amazonaws.com/groups/global/AuthenticatedUsers',
)


def grant(p, who=None, uri=None):
    if uri:
        return (p, 'Group', uri)
    return (p, 'CanonicalUser', user_id(who or 'main'))


RANKS = ('READ', 'WRITE', 'READ_ACP', 'WRITE_ACP', 'FULL_CONTROL')


def grants(r):
    order = [(g['Grantee']['Type'] == 'CanonicalUser', RANKS.index(g['Permission'])) for g in r['Grants']]
    eq(order, sorted(order), 'groups before accounts, and the lesser before the greater:')
    return sorted(
        (g['Permission'], g['Grantee']['Type'], g['Grantee'].get('URI') or g['Grantee'].get('ID')) for g in r['Grants']
    )


OWN = lambda: grant('FULL_CONTROL')


@case('acl')
def test_bucket_acl_default():
    r = main().get_bucket_acl(Bucket=bucket())
    eq((r['Owner']['ID'], r['Owner']['DisplayName'], grants(r)), (user_id('main'), display_name('main'), [OWN()]))


@case('acl')
def test_object_acl_default():
    eq(grants(main().get_object_acl(Bucket=fill(['foo']), Key='foo')), [OWN()])


for what, acl, more in [
    ('canned_publicreadwrite', 'public-read-write', [grant_ for grant_ in (('READ', ALL), ('WRITE', ALL))]),
    ('canned_authenticatedread', 'authenticated-read', [('READ', AUTH)]),
]:

    def of_bucket(acl=acl, more=more):
        b = bucket(ACL=acl)
        eq(grants(main().get_bucket_acl(Bucket=b)), sorted([OWN()] + [grant(p, uri=u) for p, u in more]))

    def of_object(acl=acl, more=more):
        b = bucket()
        main().put_object(Bucket=b, Key='foo', Body=b'', ACL=acl)
        eq(grants(main().get_object_acl(Bucket=b, Key='foo')), sorted([OWN()] + [grant(p, uri=u) for p, u in more]))

    case('acl', f'test_bucket_acl_{what}')(of_bucket)
    case('acl', f'test_object_acl_{what}')(of_object)


@case('acl')
def test_bucket_acl_canned_during_create():
    eq(grants(main().get_bucket_acl(Bucket=bucket(ACL='public-read'))), sorted([OWN(), grant('READ', uri=ALL)]))


@case('acl')
def test_bucket_acl_canned():
    b = bucket(ACL='public-read')
    eq(len(grants(main().get_bucket_acl(Bucket=b))), 2)
    main().put_bucket_acl(Bucket=b, ACL='private')
    eq(grants(main().get_bucket_acl(Bucket=b)), [OWN()])


@case('acl')
def test_bucket_acl_canned_private_to_private():
    main().put_bucket_acl(Bucket=bucket(), ACL='private')


@case('acl')
def test_object_acl_canned_during_create():
    b = bucket()
    main().put_object(Bucket=b, Key='foo', ACL='public-read')
    eq(grants(main().get_object_acl(Bucket=b, Key='foo')), sorted([OWN(), grant('READ', uri=ALL)]))


@case('acl')
def test_object_acl_canned():
    b = bucket()
    main().put_object(Bucket=b, Key='foo', ACL='public-read')
    main().put_object_acl(Bucket=b, Key='foo', ACL='private')
    eq(grants(main().get_object_acl(Bucket=b, Key='foo')), [OWN()])


for what, acl, p in [
    ('bucketownerread', 'bucket-owner-read', 'READ'),
    ('bucketownerfullcontrol', 'bucket-owner-full-control', 'FULL_CONTROL'),
]:

    def owner(acl=acl, p=p):
        b = bucket(ACL='public-read-write')
        alt().put_object(Bucket=b, Key='foo', Body=b'')
        alt().put_object(Bucket=b, Key='foo', Body=b'', ACL=acl)
        eq(grants(alt().get_object_acl(Bucket=b, Key='foo')), sorted([grant('FULL_CONTROL', 'alt'), grant(p, 'main')]))

    case('acl', f'test_object_acl_canned_{what}')(owner)


def policy_of(*gs, owner='main'):
    def one(p, who):
        return {'Grantee': {'ID': user_id(who), 'Type': 'CanonicalUser'}, 'Permission': p}

    return {'Owner': {'ID': user_id(owner)}, 'Grants': [one('FULL_CONTROL', owner)] + [one(p, w) for p, w in gs]}


for p, name in [
    ('FULL_CONTROL', 'object_acl'),
    ('WRITE', 'object_acl_write'),
    ('WRITE_ACP', 'object_acl_writeacp'),
    ('READ', 'object_acl_read'),
    ('READ_ACP', 'object_acl_readacp'),
]:

    def put(p=p):
        b = fill(['foo'])
        main().put_object_acl(
            Bucket=b,
            Key='foo',
            AccessControlPolicy={
                'Owner': {'ID': user_id('main')},
                'Grants': [{'Grantee': {'ID': user_id('main'), 'Type': 'CanonicalUser'}, 'Permission': p}],
            },
        )
        eq(grants(main().get_object_acl(Bucket=b, Key='foo')), [grant(p)])

    case('acl', 'test_' + name)(put)

CAN = {'FULL_CONTROL': 'RWrw', 'READ': 'R', 'READ_ACP': 'r', 'WRITE': 'W', 'WRITE_ACP': 'w'}
for p, name in [
    ('FULL_CONTROL', 'fullcontrol'),
    ('READ', 'read'),
    ('READ_ACP', 'readacp'),
    ('WRITE', 'write'),
    ('WRITE_ACP', 'writeacp'),
]:

    def to_user(p=p):
        b = bucket()
        main().put_bucket_acl(Bucket=b, AccessControlPolicy=policy_of((p, 'alt')))
        eq(grants(main().get_bucket_acl(Bucket=b)), sorted([OWN(), grant(p, 'alt')]))
        for letter, call in [
            ('R', lambda: alt().list_objects(Bucket=b)),
            ('W', lambda: alt().put_object(Bucket=b, Key='foo-write', Body=b'')),
            ('r', lambda: alt().get_bucket_acl(Bucket=b)),
            ('w', lambda: alt().put_bucket_acl(Bucket=b, ACL='public-read')),
        ]:
            if letter in CAN[p]:
                call()
            else:
                refused(403, 'AccessDenied', call)

    case('acl', f'test_bucket_acl_grant_userid_{name}')(to_user)


@case('acl')
def test_bucket_acl_grant_nonexist_user():
    refused(
        400,
        'InvalidArgument',
        main().put_bucket_acl,
        Bucket=bucket(),
        AccessControlPolicy={
            'Owner': {'ID': user_id('main')},
            'Grants': [{'Grantee': {'ID': '_foo', 'Type': 'CanonicalUser'}, 'Permission': 'FULL_CONTROL'}],
        },
    )


def email(b, who):
    return main().put_bucket_acl(
        Bucket=b,
        AccessControlPolicy={
            'Owner': {'ID': user_id('main')},
            'Grants': [
                {'Grantee': {'ID': user_id('main'), 'Type': 'CanonicalUser'}, 'Permission': 'FULL_CONTROL'},
                {'Grantee': {'EmailAddress': who, 'Type': 'AmazonCustomerByEmail'}, 'Permission': 'FULL_CONTROL'},
            ],
        },
    )


@case('acl')
def test_bucket_acl_grant_email():
    b = bucket()
    email(b, ENV['accounts']['alt'].get('email', 'alt@example.com'))
    eq(grants(main().get_bucket_acl(Bucket=b)), sorted([OWN(), grant('FULL_CONTROL', 'alt')]))


@case('acl')
def test_bucket_acl_grant_email_not_exist():
    refused(400, 'UnresolvableGrantByEmailAddress', email, bucket(), 'nobody@example.com.invalid')


@case('acl')
def test_bucket_acl_revoke_all():
    b = bucket()
    main().put_bucket_acl(Bucket=b, AccessControlPolicy={'Owner': {'ID': user_id('main')}, 'Grants': []})
    eq(main().get_bucket_acl(Bucket=b)['Grants'], [])


def header_grants():
    return {f'Grant{p}': f"id={user_id('alt')}" for p in ('FullControl', 'Read', 'Write', 'ReadACP', 'WriteACP')}


WANT = lambda: sorted(grant(p, 'alt') for p in ('FULL_CONTROL', 'READ', 'WRITE', 'READ_ACP', 'WRITE_ACP'))


@case('acl')
def test_bucket_header_acl_grants():
    b = bucket(**header_grants())
    eq(grants(alt().get_bucket_acl(Bucket=b)), WANT())
    alt().put_object(Bucket=b, Key='foo', Body=b'')
    alt().put_bucket_acl(Bucket=b, ACL='public-read')


@case('acl')
def test_object_header_acl_grants():
    b = bucket()
    main().put_object(Bucket=b, Key='foo', Body=b'', **{k: v for k, v in header_grants().items() if k != 'GrantWrite'})
    eq(grants(main().get_object_acl(Bucket=b, Key='foo')), [g for g in WANT() if g[0] != 'WRITE'])


@case('acl')
def test_put_bucket_acl_grant_group_read():
    b = bucket()
    p = policy_of()
    p['Grants'].append({'Grantee': {'URI': ALL, 'Type': 'Group'}, 'Permission': 'READ'})
    main().put_bucket_acl(Bucket=b, AccessControlPolicy=p)
    eq(grants(main().get_bucket_acl(Bucket=b)), sorted([OWN(), grant('READ', uri=ALL)]))


def matrix(bacl, oacl, v2=False):
    name = f"test_access_bucket_{bacl.replace('-', '')}_object{'v2' if v2 else ''}_{oacl.replace('-', '')}"

    @case('acl', name)
    def run():
        b = bucket()
        main().put_bucket_acl(Bucket=b, ACL=bacl)
        for k, acl in (('foo', oacl), ('bar', None)):
            main().put_object(Bucket=b, Key=k, Body=k.encode())
            if acl:
                main().put_object_acl(Bucket=b, Key=k, ACL=acl)

        def do(ok, fn, *a, **kw):
            if ok:
                return fn(*a, **kw)
            refused(403, 'AccessDenied', fn, *a, **kw)

        c = alt()
        do('read' in oacl, c.get_object, Bucket=b, Key='foo')
        do(False, c.get_object, Bucket=b, Key='bar')
        do('read' in bacl, (c.list_objects_v2 if v2 else c.list_objects), Bucket=b)
        for k in ('foo', 'bar', 'new'):
            do('write' in bacl, c.put_object, Bucket=b, Key=k, Body=b'over')


for bacl in ('private', 'public-read', 'public-read-write'):
    for oacl in ('private', 'public-read', 'public-read-write'):
        matrix(bacl, oacl)
for oacl in ('private', 'public-read', 'public-read-write'):
    matrix('private', oacl, True)


def add_grant(b, k, permission, who):
    acl = main().get_object_acl(Bucket=b, Key=k)
    one = {'Grantee': {'ID': user_id(who), 'Type': 'CanonicalUser'}, 'Permission': permission}
    main().put_object_acl(Bucket=b, Key=k, AccessControlPolicy={'Grants': acl['Grants'] + [one], 'Owner': acl['Owner']})


@case('acl')
def test_object_acl_full_control_verify_owner():
    b = bucket(ACL='public-read-write')
    main().put_object(Bucket=b, Key='foo', Body=b'bar')
    main().put_object_acl(Bucket=b, Key='foo', AccessControlPolicy=policy_of(('FULL_CONTROL', 'alt')))
    only = {'Grantee': {'ID': user_id('alt'), 'Type': 'CanonicalUser'}, 'Permission': 'READ_ACP'}
    alt().put_object_acl(Bucket=b, Key='foo', AccessControlPolicy={'Owner': {'ID': user_id('main')}, 'Grants': [only]})
    eq(alt().get_object_acl(Bucket=b, Key='foo')['Owner']['ID'], user_id('main'))


@case('acl')
def test_object_acl_full_control_verify_attributes():
    b = bucket(ACL='public-read-write')
    c = fresh()
    c.meta.events.register(
        'before-call.s3.PutObject', lambda params, **_: params['headers'].update({'x-amz-foo': 'bar'})
    )
    c.put_object(Bucket=b, Key='foo', Body=b'bar')
    before = main().get_object(Bucket=b, Key='foo')
    add_grant(b, 'foo', 'FULL_CONTROL', 'alt')
    after = main().get_object(Bucket=b, Key='foo')
    eq([after[k] for k in ('ContentType', 'ETag')], [before[k] for k in ('ContentType', 'ETag')])


def presigned_acl(name, who):
    @case('acl', name)
    def run():
        c = fresh(who)
        b = bucket(c)
        u = url(c, b, 'foo', 'put_object', ACL='private')
        h = {'x-amz-acl': 'private'} if 'x-amz-acl' in u.lower() else {}
        eq(fetch(u, 'PUT', b'hello world', h)[0], 200)
        status, _, body = fetch(url(c, b, 'foo'))
        eq((status, body), (200, b'hello world'))


presigned_acl('test_object_presigned_put_object_with_acl', 'main')
presigned_acl('test_object_presigned_put_object_with_acl_tenant', 'tenant')


@case('acl')
def test_versioned_object_acl():
    b = versioned()
    ids = [main().put_object(Bucket=b, Key='xyz', Body=str(n).encode())['VersionId'] for n in range(3)]
    eq(grants(main().get_object_acl(Bucket=b, Key='xyz', VersionId=ids[1])), [OWN()])
    main().put_object_acl(Bucket=b, Key='xyz', VersionId=ids[1], ACL='public-read')
    public = sorted([OWN(), grant('READ', uri=ALL)])
    eq(grants(main().get_object_acl(Bucket=b, Key='xyz', VersionId=ids[1])), public)
    for v in (ids[0], ids[2]):
        eq(grants(main().get_object_acl(Bucket=b, Key='xyz', VersionId=v)), [OWN()])
    main().put_object(Bucket=b, Key='xyz', Body=b'')
    eq(grants(main().get_object_acl(Bucket=b, Key='xyz')), [OWN()])


@case('acl')
def test_versioned_object_acl_no_version_specified():
    b = versioned()
    ids = [main().put_object(Bucket=b, Key='xyz', Body=str(n).encode())['VersionId'] for n in range(3)]
    main().put_object_acl(Bucket=b, Key='xyz', ACL='public-read')
    public = sorted([OWN(), grant('READ', uri=ALL)])
    eq(grants(main().get_object_acl(Bucket=b, Key='xyz', VersionId=ids[2])), public)
    eq(grants(main().get_object_acl(Bucket=b, Key='xyz', VersionId=ids[0])), [OWN()])
