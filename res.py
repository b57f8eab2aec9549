import re,sys
def sub(path, pairs):
    t=open(path).read()
    parts=re.split(r'(<<<<<<< HEAD\n.*?>>>>>>> [^\n]*\n)',t,flags=re.S)
    n=0
    for i,p in enumerate(parts):
        if p.startswith('<<<<<<< HEAD'):
            a,b=p.split('=======\n')
            a=a.split('\n',1)[1]; b=b.rsplit('>>>>>>>',1)[0]
            parts[i]=pairs[n](a,b); n+=1
    assert n==len(pairs),n
    open(path,'w').write(''.join(parts))
C='crates/oarlock-sim/src/'
def c0(a,b):
    b=b.split('        let random = &mut it.random;')[0]
    return b+a
def c1(a,b):
    return '''        let outcome = self.coordinator.decide(node, run, command.clone());
        if let (Command::Evict { epoch, out, .. }, Outcome::Done) = (&command, outcome) {
            for wronged in self.health.decided(node, *epoch, out).wronged {
                let text = format!("{out:?} puts out node {wronged}, which must stay");
                self.others.add("removal", now, text);
            }
        }
'''
def c2(a,b):
    return a.replace('health.touch(','health.touch_around(')
sub(C+'coordinator.rs',[c0,c1,c2])
sub(C+'health.rs',[lambda a,b:b])
sub('docs/testing.md',[lambda a,b:a+b.splitlines()[-1]+'\n'])
