"""Users, groups and roles of an account, their keys and their policies, by the API of IAM; and what STS gives out."""

from botocore.exceptions import ClientError
from kit import *

FULL = 'arn:aws:iam::aws:policy/AmazonS3FullAccess'
READ = 'arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess'
IAM_READ = 'arn:aws:iam::aws:policy/IAMReadOnlyAccess'
_names = itertools.count()
_tag = ''.join(random.choices(string.ascii_lowercase, k=5))


def client(service, credentials):
    """A client with these credentials: an account's root, an access key, or what STS gave out."""
    names = ('access_key', 'secret_key') if 'access_key' in credentials else ('AccessKeyId', 'SecretAccessKey')
    return boto3.client(
        service,
        endpoint_url=ENV['endpoint'],
        region_name='us-east-1',
        aws_access_key_id=credentials[names[0]],
        aws_secret_access_key=credentials[names[1]],
        aws_session_token=credentials.get('SessionToken'),
        config=Config(s3={'addressing_style': 'path'}, retries={'total_max_attempts': 1}, read_timeout=120),
    )


def root(service='iam', who='iam root'):
    key = (service, who)
    return _cached.setdefault((ENV['endpoint'], key), client(service, ENV['accounts'][who]))


_cached = {}


def other(service='iam'):
    return root(service, 'iam alt root')


def named(stem):
    return f'{stem}-{_tag}-{next(_names)}'


def new_path():
    return f'/{named("path")}/'


def missing(fn, **kw):
    refused(404, 'NoSuchEntity', fn, **kw)


def taken(fn, **kw):
    refused(409, 'EntityAlreadyExists', fn, **kw)


def held(fn, **kw):
    refused(409, 'DeleteConflict', fn, **kw)


def denied(fn, *a, **kw):
    refused(403, 'AccessDenied', fn, *a, **kw)


def document(*statements):
    return json.dumps({'Version': '2012-10-17', 'Statement': list(statements)})


def may(action, resource='*', effect='Allow'):
    return {'Effect': effect, 'Action': action, 'Resource': resource}


def trusts(principal):
    return document({'Effect': 'Allow', 'Action': 'sts:AssumeRole', 'Principal': {'AWS': principal}})


def listed(iam, what, **kw):
    """All names of a kind, and the same names a page of one at a time."""
    operation, member, name = {
        'users': ('list_users', 'Users', 'UserName'),
        'groups': ('list_groups', 'Groups', 'GroupName'),
        'roles': ('list_roles', 'Roles', 'RoleName'),
        'keys': ('list_access_keys', 'AccessKeyMetadata', 'AccessKeyId'),
    }[what]
    pages = iam.get_paginator(operation)
    whole, single = (
        [one[name] for page in pages.paginate(**kw, **more) for one in page[member]]
        for more in ({}, {'PaginationConfig': {'PageSize': 1}})
    )
    eq(single, whole, 'by pages of one')
    return whole


def user(iam=None, name=None, path=None):
    """A new user: its name, its ARN and its credentials."""
    iam, name = iam or root(), name or named('user')
    arn = iam.create_user(UserName=name, Path=path or new_path())['User']['Arn']
    return name, arn, iam.create_access_key(UserName=name)['AccessKey']


def assumed(role_arn, key):
    return client('sts', key).assume_role(RoleArn=role_arn, RoleSessionName='MySession')['Credentials']


# Users


@case('iam')
def test_account_user_create():
    path, name = new_path(), named('U1')
    u = root().create_user(UserName=name, Path=path)['User']
    eq((u['Path'], u['UserName'], u['Arn'].endswith(f':user{path}{name}')), (path, name, True))
    eq(u['CreateDate'].year > 2000 and len(u['UserId']) > 0, True)
    taken(root().create_user, UserName=name, Path=path + 'foo/')
    eq(root().create_user(UserName=named('U2'), Path=path + 'foo/')['User']['Path'], path + 'foo/')


@case('iam')
def test_account_user_case_insensitive_name():
    upper = named('Upper')
    made = root().create_user(UserName=upper, Path=new_path())['User']
    taken(root().create_user, UserName=upper.lower())
    eq(root().get_user(UserName=upper.lower())['User'], made)
    root().delete_user(UserName=upper.lower())
    missing(root().get_user, UserName=upper)


@case('iam')
def test_account_user_delete():
    name, path = named('U'), new_path()
    missing(root().delete_user, UserName=name)
    first = root().create_user(UserName=name, Path=path)['User']
    root().delete_user(UserName=name)
    second = root().create_user(UserName=name, Path=path)['User']
    eq((first['UserId'] != second['UserId'], first['CreateDate'] <= second['CreateDate']), (True, True))


def sorted_list(what, make):
    path = new_path()
    eq(listed(root(), what, PathPrefix=path), [])
    stem = named('n')
    names = [f'{stem}-{n}' for n in ('aa', 'Ab', 'ac', 'Ad')]
    for name, below in zip(reversed(names), 'wxyz'):
        make(name, f'{path}{below}/')
    eq(listed(root(), what, PathPrefix=path), names)


def list_below(what, make):
    path, stem = new_path(), named('n')
    names = [f'{stem}-{n}' for n in 'abcd']
    for name, below in zip(names, ('', '', 'a/', 'a/x/')):
        make(name, path + below)
    for below, wanted in (('', names), ('a', names[2:]), ('a/x', names[3:]), ('a/x/d', [])):
        eq(listed(root(), what, PathPrefix=path + below), wanted, below)


def make_user(name, path):
    root().create_user(UserName=name, Path=path)


def make_group(name, path):
    root().create_group(GroupName=name, Path=path)


def make_role(name, path):
    root().create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=trusts('*'))


case('iam', 'test_account_user_list')(lambda: sorted_list('users', make_user))
case('iam', 'test_account_group_list')(lambda: sorted_list('groups', make_group))
case('iam', 'test_account_role_list')(lambda: sorted_list('roles', make_role))
case('iam', 'test_account_user_list_path_prefix')(lambda: list_below('users', make_user))
case('iam', 'test_account_role_list_path_prefix')(lambda: list_below('roles', make_role))


@case('iam')
def test_account_user_update_name():
    path, a, b, z = new_path(), named('a'), named('b'), named('z')
    missing(root().update_user, UserName=a, NewUserName=z)
    uid = root().create_user(UserName=a, Path=path)['User']['UserId']
    make_user(b, path + 'm/')
    root().update_user(UserName=a, NewUserName=z)
    missing(root().get_user, UserName=a)
    u = root().get_user(UserName=z)['User']
    eq((u['UserId'], u['Arn'].endswith(f':user{path}{z}')), (uid, True))
    eq(listed(root(), 'users', PathPrefix=path), [b, z])


@case('iam')
def test_account_user_update_path():
    path, name = new_path(), named('a')
    uid = root().create_user(UserName=name, Path=path)['User']['UserId']
    root().update_user(UserName=name, NewPath=path + 'z/')
    u = root().get_user(UserName=name)['User']
    eq((u['UserId'], u['Path'], u['Arn'].endswith(f':user{path}z/{name}')), (uid, path + 'z/', True))


# Keys


@case('iam')
def test_account_user_access_key_create():
    missing(root().create_access_key, UserName=named('nobody'))
    name, _, key = user()
    eq((key['UserName'], key['Status'], key['CreateDate'].year > 2000), (name, 'Active', True))


# An account has two keys besides its first one: the cases that make one take turns.
own_keys = threading.Lock()


def with_own_key(fn):
    with own_keys:
        key = root().create_access_key()['AccessKey']
        try:
            eq((key['Status'], len(key['SecretAccessKey']) > 0), ('Active', True))
            fn(key['AccessKeyId'])
        finally:
            root().delete_access_key(AccessKeyId=key['AccessKeyId'])
        missing(root().delete_access_key, AccessKeyId=key['AccessKeyId'])
        eq(key['AccessKeyId'] in listed(root(), 'keys'), False)


def own_key_status(key_id):
    missing(root().update_access_key, AccessKeyId='abcdefghijklmnopqrstu', Status='Active')
    root().update_access_key(AccessKeyId=key_id, Status='Inactive')
    found = [k for p in root().get_paginator('list_access_keys').paginate() for k in p['AccessKeyMetadata']]
    eq([k['Status'] for k in found if k['AccessKeyId'] == key_id], ['Inactive'])


case('iam', 'test_account_current_user_access_key_create')(lambda: with_own_key(lambda _: None))
case('iam', 'test_account_current_user_access_key_update')(lambda: with_own_key(own_key_status))
case('iam', 'test_account_current_user_access_key_delete')(
    lambda: (missing(root().delete_access_key, AccessKeyId='abcdefghijklmnopqrstu'), with_own_key(lambda _: None))
)


@case('iam')
def test_account_user_access_key_update():
    none = 'abcdefghijklmnopqrstu'
    missing(root().update_access_key, UserName='nosuchuser', AccessKeyId=none, Status='Active')
    name, _, key = user()
    missing(root().update_access_key, UserName=name, AccessKeyId=none, Status='Active')
    for status in ('Active', 'Inactive'):
        root().update_access_key(UserName=name, AccessKeyId=key['AccessKeyId'], Status=status)
    found = root().list_access_keys(UserName=name)['AccessKeyMetadata']
    eq(
        [(k['UserName'], k['AccessKeyId'], k['Status'], k['CreateDate']) for k in found],
        [(name, key['AccessKeyId'], 'Inactive', key['CreateDate'])],
    )


@case('iam')
def test_account_user_access_key_delete():
    missing(root().delete_access_key, UserName='nosuchuser', AccessKeyId='abcdefghijklmnopqrstu')
    name, _, key = user()
    missing(root().delete_access_key, UserName=name, AccessKeyId='abcdefghijklmnopqrstu')
    root().delete_access_key(UserName=name, AccessKeyId=key['AccessKeyId'])
    missing(root().delete_access_key, UserName=name, AccessKeyId=key['AccessKeyId'])
    eq(root().list_access_keys(UserName=name)['AccessKeyMetadata'], [])


@case('iam')
def test_account_user_access_key_list():
    missing(root().list_access_keys, UserName='nosuchuser')
    name = named('a')
    make_user(name, new_path())
    made = []
    for _ in range(3):
        eq(sorted(listed(root(), 'keys', UserName=name)), sorted(made))
        if len(made) < 2:
            made.append(root().create_access_key(UserName=name)['AccessKey']['AccessKeyId'])


# Policies of users, groups and roles: the same calls under three names


class Kind:
    """The operations that one kind of identity has under its own name."""

    def __init__(self, kind, make):
        self.kind, self.make, self.key = kind, make, f'{kind.capitalize()}Name'

    def call(self, operation, name, **kw):
        return getattr(root(), operation.format(self.kind))(**{self.key: name}, **kw)

    def missing(self, operation, name, **kw):
        missing(lambda: self.call(operation, name, **kw))

    def inline(self):
        name, p = named(self.kind), {'PolicyName': 'List'}
        deny = document(may('s3:ListBucket', arn('some'), 'Deny'))
        allow = document(may('s3:ListBucket', arn('some')))
        for again in range(2):
            self.missing('get_{}_policy', name, **p)
            self.missing('delete_{}_policy', name, **p)
            if not again:
                self.missing('put_{}_policy', name, **p, PolicyDocument=deny)
                self.make(name, new_path())
        for d in (deny, allow):
            self.call('put_{}_policy', name, **p, PolicyDocument=d)
            eq(json.dumps(self.call('get_{}_policy', name, **p)['PolicyDocument']), d)
            eq(self.call('list_{}_policies', name)['PolicyNames'], ['List'])
        self.call('put_{}_policy', name, PolicyName='Another', PolicyDocument=allow)
        eq(self.call('list_{}_policies', name)['PolicyNames'], ['Another', 'List'])
        held(lambda: self.call('delete_{}', name))
        for n in ('Another', 'List'):
            self.call('delete_{}_policy', name, PolicyName=n)
        self.missing('get_{}_policy', name, **p)
        self.missing('delete_{}_policy', name, **p)
        eq(self.call('list_{}_policies', name)['PolicyNames'], [])

    def attached(self, name):
        return sorted(p['PolicyArn'] for p in self.call('list_attached_{}_policies', name)['AttachedPolicies'])

    def managed(self):
        name = named(self.kind)
        self.missing('attach_{}_policy', name, PolicyArn=FULL)
        self.missing('detach_{}_policy', name, PolicyArn=FULL)
        self.missing('list_attached_{}_policies', name)
        self.make(name, new_path())
        self.missing('detach_{}_policy', name, PolicyArn=FULL)
        for p, wanted in ((FULL, [FULL]), (FULL, [FULL]), (READ, [FULL, READ])):
            self.call('attach_{}_policy', name, PolicyArn=p)
            eq(self.attached(name), wanted)
        self.call('detach_{}_policy', name, PolicyArn=READ)
        self.missing('detach_{}_policy', name, PolicyArn=READ)
        only = self.call('list_attached_{}_policies', name)['AttachedPolicies']
        eq([(p['PolicyName'], p['PolicyArn']) for p in only], [('AmazonS3FullAccess', FULL)])
        held(lambda: self.call('delete_{}', name))


KINDS = {kind: Kind(kind, make) for kind, make in (('user', make_user), ('group', make_group), ('role', make_role))}
case('iam', 'test_account_user_policy')(KINDS['user'].inline)
case('iam', 'test_account_user_policy_managed')(KINDS['user'].managed)
case('iam', 'test_account_inline_group_policy')(KINDS['group'].inline)
case('iam', 'test_account_managed_group_policy')(KINDS['group'].managed)
case('iam', 'test_account_role_policy')(KINDS['role'].inline)
case('iam', 'test_account_role_policy_managed')(KINDS['role'].managed)


@case('iam')
def test_account_user_bucket_policy_allow():
    _, who, key = user()
    s3, b = client('s3', key), bucket(root('s3'))
    denied(s3.list_objects, Bucket=b)
    root('s3').put_bucket_policy(Bucket=b, Policy=policy(b, allow('s3:ListBucket', arn(b), who)))
    s3.list_objects(Bucket=b)


@case('iam')
def test_account_user_policy_allow():
    name, _, key = user()
    s3 = client('s3', key)
    denied(s3.list_buckets)
    root().put_user_policy(UserName=name, PolicyName='AllowStar', PolicyDocument=document(may('s3:*')))
    s3.list_buckets()


# Groups


@case('iam')
def test_account_group_create():
    path, name = new_path(), named('G1')
    g = root().create_group(GroupName=name, Path=path)['Group']
    eq((g['Path'], g['GroupName'], g['Arn'].endswith(f':group{path}{name}')), (path, name, True))
    taken(root().create_group, GroupName=name)
    eq(root().get_group(GroupName=name)['Group'], g)
    eq(listed(root(), 'groups', PathPrefix=path), [name])
    root().delete_group(GroupName=name)
    missing(root().get_group, GroupName=name)
    eq(listed(root(), 'groups', PathPrefix=path), [])


@case('iam')
def test_account_group_case_insensitive_name():
    upper = named('Group')
    g = root().create_group(GroupName=upper, Path=new_path())['Group']
    taken(root().create_group, GroupName=upper.lower())
    eq(root().get_group(GroupName=upper.lower())['Group'], g)
    root().delete_group(GroupName=upper.lower())
    missing(root().delete_group, GroupName=upper)


@case('iam')
def test_account_group_update():
    path, name, new, who = new_path(), named('G'), named('NG'), named('U')
    gid = root().create_group(GroupName=name, Path=path)['Group']['GroupId']
    make_user(who, path)
    root().add_user_to_group(GroupName=name, UserName=who)

    def of_user():
        return [(g['Path'], g['GroupName'], g['GroupId']) for g in root().list_groups_for_user(UserName=who)['Groups']]

    eq(of_user(), [(path, name, gid)])
    root().update_group(GroupName=name, NewPath=path + 'new/', NewGroupName=new)
    got = root().get_group(GroupName=new)
    eq((got['Group']['GroupId'], got['Group']['Arn'].endswith(f':group{path}new/{new}')), (gid, True))
    eq([u['UserName'] for u in got['Users']], [who])
    eq(of_user(), [(path + 'new/', new, gid)])


def by_group(give):
    name, _, key = user()
    group = named('Group')
    make_group(group, new_path())
    root().add_user_to_group(GroupName=group, UserName=name)
    s3 = client('s3', key)
    denied(s3.list_buckets)
    give(group)
    s3.list_buckets()
    root().remove_user_from_group(GroupName=group, UserName=name)
    denied(s3.list_buckets)


case('iam', 'test_account_inline_group_policy_allow')(
    lambda: by_group(
        lambda g: root().put_group_policy(GroupName=g, PolicyName='Star', PolicyDocument=document(may('s3:*')))
    )
)
case('iam', 'test_account_managed_group_policy_allow')(
    lambda: by_group(lambda g: root().attach_group_policy(GroupName=g, PolicyArn=READ))
)
