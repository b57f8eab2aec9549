/* Two processes, the second at another node where OTHER_SOCKET says so: deadlocks over two resources, and deaths. */
#include <signal.h>

#include "check.h"

static int to_child[2], to_parent[2];
static struct lk a, b;

static void say(int fd)
{
    IS(write(fd, "x", 1), 1);
}

static void hear(int fd)
{
    char byte;
    IS(read(fd, &byte, 1), 1);
}

static int locked(struct lk *lk, const char *name, uint32_t mode, uint32_t flags)
{
    int rc;
    lk->sb.sb_lvbptr = lk->block;
    rc = dlm_ls_lock_wait(ls, mode, &lk->sb, flags, name, (unsigned)strlen(name), 0, lk, NULL, NULL);
    return rc != 0 ? errno : lk->sb.sb_status;
}

static void gone(struct lk *lk)
{
    IS(dlm_ls_unlock_wait(ls, lk->sb.sb_lkid, 0, &lk->sb), 0);
}

/* A child that has opened its own, elsewhere or here. */
static pid_t child(void (*body)(void), int elsewhere)
{
    pid_t pid;
    IS(pipe(to_child), 0);
    IS(pipe(to_parent), 0);
    pid = fork();
    if (pid == 0) {
        const char *other = getenv("OTHER_SOCKET");
        /* Whatever becomes of its parent. */
        alarm(60);
        if (elsewhere && other) {
            setenv("OARLOCK_SOCKET", other, 1);
        }
        ls = make("pairs");
        body();
        _exit(0);
    }
    return pid;
}

static void ends(pid_t pid, int how)
{
    int status;
    IS(waitpid(pid, &status, 0), pid);
    IS(status, how);
    close(to_child[0]), close(to_child[1]), close(to_parent[0]), close(to_parent[1]);
}

/* 55: each has what the other wants. One of them is refused, and the other goes on. */
static void second_of_two(void)
{
    int status;
    IS(locked(&b, "y", EX, 0), 0);
    say(to_parent[1]);
    hear(to_child[0]);
    wait_a_little(100);
    status = locked(&a, "x", EX, 0);
    if (status == EDEADLK) {
        gone(&b);
    } else {
        IS(status, 0);
        gone(&a);
        gone(&b);
    }
    _exit(status == EDEADLK ? 35 : 0);
}

static void two_resources(void)
{
    int status, others;
    pid_t pid = child(second_of_two, 1);
    ls = make("pairs");
    hear(to_parent[0]);
    IS(locked(&a, "x", EX, 0), 0);
    say(to_child[1]);
    status = locked(&b, "y", EX, 0);
    if (status == EDEADLK) {
        gone(&a);
    } else {
        IS(status, 0);
        gone(&a);
        gone(&b);
    }
    IS(waitpid(pid, &others, 0), pid);
    /* One of the two, and not both. */
    IS(status == EDEADLK, others == 0);
    TRUE(others == 0 || others == 35 << 8);
    IS(dlm_release_lockspace("pairs", ls, 0), 0);
}

/* The same in one process that says on whose behalf it asks. */
static void two_transactions(void)
{
    uint64_t first = 1001, second = 1002;
    struct lk c, d;
    ls = make("pairs");
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b), memset(&c, 0, sizeof c), memset(&d, 0, sizeof d);
    IS(dlm_ls_lockx(ls, EX, &a.sb, 0, "x", 1, 0, on_ast, &a, NULL, &first, NULL), 0);
    IS(dlm_ls_lockx(ls, EX, &b.sb, 0, "y", 1, 0, on_ast, &b, NULL, &second, NULL), 0);
    UNTIL(a.asts, 1);
    UNTIL(b.asts, 1);
    IS(dlm_ls_lockx(ls, EX, &c.sb, 0, "y", 1, 0, on_ast, &c, NULL, &first, NULL), 0);
    wait_a_little(100);
    IS(dlm_ls_lockx(ls, EX, &d.sb, 0, "x", 1, 0, on_ast, &d, NULL, &second, NULL), 0);
    UNTIL(d.asts, 1);
    IS(d.sb.sb_status, EDEADLK);
    IS(c.asts, 0);
    UNLOCK(b);
    UNTIL(c.asts, 1);
    IS(c.sb.sb_status, 0);
    UNLOCK(a);
    UNLOCK(c);
    /* Who resolves it himself is left alone. */
    IS(dlm_ls_lockx(ls, EX, &a.sb, 0, "x", 1, 0, on_ast, &a, NULL, &first, NULL), 0);
    IS(dlm_ls_lockx(ls, EX, &b.sb, 0, "y", 1, 0, on_ast, &b, NULL, &second, NULL), 0);
    a.asts = b.asts = c.asts = d.asts = 0;
    UNTIL(a.asts, 1);
    UNTIL(b.asts, 1);
    IS(dlm_ls_lockx(ls, EX, &c.sb, LKF_NODLCKWT, "y", 1, 0, on_ast, &c, NULL, &first, NULL), 0);
    IS(dlm_ls_lockx(ls, EX, &d.sb, LKF_NODLCKWT, "x", 1, 0, on_ast, &d, NULL, &second, NULL), 0);
    wait_a_little(700);
    settle();
    IS(c.asts + d.asts, 0);
    IS(dlm_release_lockspace("pairs", ls, 1), 0);
}

/* 35, 36: what a dead process held, and waited for. */
static void dies_holding(void)
{
    hear(to_child[0]);
    IS(locked(&a, "x", EX, LKF_VALBLK), 0);
    strcpy(a.block, "from the child");
    IS(locked(&a, "x", CR, LKF_CONVERT | LKF_VALBLK), 0);
    IS(locked(&a, "x", EX, LKF_CONVERT), 0);
    IS(ask_for(&b, "y", EX, 0), 0);
    settle();
    say(to_parent[1]);
    for (;;) {
        pause();
    }
}

static void deaths(int elsewhere)
{
    pid_t pid;
    struct lk keeps, c;
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b), memset(&c, 0, sizeof c), memset(&keeps, 0, sizeof keeps);
    pid = child(dies_holding, elsewhere);
    ls = make("pairs");
    GET(keeps, "x", NL, 0);
    GET(b, "y", PR, 0);
    say(to_child[1]);
    hear(to_parent[0]);
    ASK(c, "y", PR, 0);
    ASK(a, "x", PR, LKF_VALBLK);
    WAITS(a);
    WAITS(c);
    IS(kill(pid, SIGKILL), 0);
    ends(pid, SIGKILL);
    COMES(c, 0);
    COMES(a, 0);
    IS(strcmp(a.block, "from the child"), 0);
    IS(a.sb.sb_flags, DLM_SBF_VALNOTVALID);
    UNLOCK(a);
    UNLOCK(b);
    UNLOCK(c);
    UNLOCK(keeps);
    IS(dlm_release_lockspace("pairs", ls, 0), 0);
}

/* 37, 40: what outlives it stays, and is purged by the number of its process. */
static void dies_persistent(void)
{
    IS(locked(&a, "x", PR, LKF_PERSISTENT), 0);
    hear(to_child[0]);
    IS(ask_for(&a, "x", EX, LKF_CONVERT | LKF_PERSISTENT), 0);
    IS(ask_for(&b, "y", EX, LKF_PERSISTENT), 0);
    settle();
    say(to_parent[1]);
    for (;;) {
        pause();
    }
}

static void survivors(void)
{
    pid_t pid;
    struct lk c;
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b), memset(&c, 0, sizeof c);
    ls = make("pairs");
    IS(dlm_close_lockspace(ls), 0);
    pid = child(dies_persistent, 0);
    ls = make("pairs");
    GET(b, "y", PR, 0);
    GET(c, "x", PR, 0);
    say(to_child[1]);
    hear(to_parent[0]);
    IS(kill(pid, SIGKILL), 0);
    ends(pid, SIGKILL);
    /* Its request is withdrawn and so is its change of mode, whose lock stands as it was. */
    settle();
    CONVERT(b, EX, LKF_NOQUEUE);
    UNLOCK(b);
    ENDS(c, "x", EX, LKF_CONVERT | LKF_NOQUEUE, EAGAIN);
    IS(dlm_ls_purge(ls, 0, pid + 1), 0);
    ENDS(c, "x", EX, LKF_CONVERT | LKF_NOQUEUE, EAGAIN);
    IS(dlm_ls_purge(ls, 0, pid), 0);
    GET(c, "x", EX, LKF_CONVERT | LKF_NOQUEUE);
    UNLOCK(c);
    IS(dlm_release_lockspace("pairs", ls, 1), 0);
}

int main(void)
{
    doing = "two resources";
    two_resources();
    doing = "two transactions";
    two_transactions();
    doing = "deaths";
    deaths(0);
    deaths(1);
    doing = "survivors";
    survivors();
    printf("all pairs\n");
    return 0;
}
