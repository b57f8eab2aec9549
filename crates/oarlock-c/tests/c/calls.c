/* Every function, used as it should be and as it should not, in one thread. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "check.h"

struct told {
    int done, rc, blocking, wanted, lost, free_in_done, free_in_blocking, again;
};

static void nothing_wanted(void *arg, oar_lock *lock, int mode)
{
    (void)lock;
    ((struct told *)arg)->blocking++;
    ((struct told *)arg)->wanted = mode;
}

static void blocking(void *arg, oar_lock *lock, int mode)
{
    struct told *told = (struct told *)arg;
    told->blocking++;
    told->wanted = mode;
    if (told->free_in_blocking) {
        oar_lock_free(lock);
    }
}

static void done(void *arg, oar_lock *lock, int rc)
{
    struct told *told = (struct told *)arg;
    told->done++;
    told->rc = rc;
    errno = EDOM;
    if (told->again) {
        /* A callback asks for something else of its own lock, and waits inside of itself. */
        told->again = 0;
        IS(oar_convert_wait(lock, OAR_PR, NULL), 0);
        IS(oar_dispatch(client, 0), 0);
        IS(oar_convert_start(lock, OAR_EX, NULL, done, told), 0);
    }
    if (told->free_in_done) {
        oar_lock_free(lock);
    }
}

static void lost(void *arg, oar_lock *lock, int rc)
{
    (void)lock;
    ((struct told *)arg)->lost = rc;
}

static int readable(void)
{
    struct pollfd fd;
    fd.fd = oar_fd(client);
    fd.events = POLLIN;
    return poll(&fd, 1, 0);
}

/* Dispatches until so many calls of done. */
static void until_done(struct told *told, int times)
{
    int i;
    for (i = 0; i < 400 && told->done < times; ++i) {
        IS(oar_dispatch(client, 50) >= 0, 1);
    }
    IS(told->done, times);
}

static void misuse(void)
{
    oar_error error = OAR_ERROR_INIT;
    oar_connect_opts how = OAR_CONNECT_OPTS_INIT;
    oar_opts opts = OAR_OPTS_INIT;
    oar_value value = OAR_VALUE_INIT;
    oar_client *other = NULL;
    oar_space *nowhere = NULL;
    oar_lock *lock = NULL;

    how.error = &error;
    IS(oar_connect("/nonexistent/oarlock.sock", &how, &other), OAR_E_NO_DAEMON);
    IS(error.rc, OAR_E_NO_DAEMON);
    IS(error.number, 1101);
    IS(strstr(error.text, "/nonexistent/oarlock.sock") != NULL, 1);
    IS(oar_connect(NULL, NULL, NULL), OAR_E_USAGE);
    how.flags = 1u << 31;
    IS(oar_connect(NULL, &how, &other), OAR_E_USAGE);
    IS(other == NULL, 1);
    IS(strcmp(oar_strerror(OAR_E_BUSY), oar_strerror(OAR_E_LOST)) != 0, 1);
    IS(strcmp(oar_version(), "") != 0, 1);

    IS(oar_space_open(client, "nobody-made-this", 0, &nowhere), OAR_E_UNKNOWN_SPACE);
    IS(oar_errinfo(client, &error), 0);
    IS(error.rc, OAR_E_UNKNOWN_SPACE);
    IS(oar_space_open(client, NULL, 0, &nowhere), OAR_E_USAGE);
    IS(oar_space_open(client, "default", 1, &nowhere), OAR_E_USAGE);
    IS(oar_space_open(NULL, "default", 0, &nowhere), OAR_E_USAGE);

    IS(oar_lock_wait(space, "x", 0, OAR_EX, NULL, &lock), OAR_E_USAGE);
    IS(oar_lock_wait(space, NULL, 1, OAR_EX, NULL, &lock), OAR_E_USAGE);
    IS(oar_lock_wait(space, "x", 1, 6, NULL, &lock), OAR_E_USAGE);
    IS(oar_lock_wait(space, "x", 1, -1, NULL, &lock), OAR_E_USAGE);
    IS(oar_lock_wait(space, "x", 1, OAR_EX, NULL, NULL), OAR_E_USAGE);
    IS(oar_lock_wait(NULL, "x", 1, OAR_EX, NULL, &lock), OAR_E_USAGE);
    IS(oar_lock_start(space, "x", 1, OAR_EX, NULL, NULL, NULL, NULL, &lock), OAR_E_USAGE);
    opts.flags = OAR_QUECVT;
    IS(oar_lock_wait(space, "x", 1, OAR_EX, &opts, &lock), OAR_E_USAGE);
    opts.flags = 0;
    opts.size = 3;
    IS(oar_lock_wait(space, "x", 1, OAR_EX, &opts, &lock), OAR_E_USAGE);
    IS(lock == NULL, 1);
    IS(oar_lock_mode(NULL), OAR_E_USAGE);
    IS(oar_cancel(NULL), OAR_E_USAGE);
    oar_lock_free(NULL);
    oar_space_close(NULL);
    oar_close(NULL);

    lock = take("x", OAR_EX, 0);
    IS(oar_value_get(lock, &value), OAR_E_USAGE);
    IS(oar_value_set(lock, "v", 1), OAR_E_USAGE);
    IS(oar_cancel(lock), OAR_E_USAGE);
    opts.size = sizeof opts;
    opts.flags = OAR_VALBLK;
    IS(oar_convert_wait(lock, OAR_PR, &opts), OAR_E_USAGE);
    IS(oar_unlock_wait(lock), 0);
    IS(oar_unlock_wait(lock), OAR_E_USAGE);
    IS(oar_lock_mode(lock), OAR_E_USAGE);
    IS(oar_lock_token(lock).hi, 0);
    oar_lock_free(lock);
}

static void held(void)
{
    oar_lock *lock = take("held", OAR_EX, OAR_FRESH | OAR_VALBLK), *other = NULL;
    oar_value value = OAR_VALUE_INIT;
    oar_opts opts = OAR_OPTS_INIT;
    oar_token first = oar_lock_token(lock), second;

    IS(oar_lock_mode(lock), OAR_EX);
    IS(oar_lock_lost(lock), 0);
    IS(oar_lock_wanted(lock), OAR_NL);
    IS(oar_lock_is_alternate(lock), 0);
    IS(oar_lock_id(lock) != 0, 1);
    IS(oar_value_set(lock, "hello", 5), 0);
    IS(oar_value_set(lock, &value, 65), OAR_E_USAGE);
    IS(oar_convert_wait(lock, OAR_PR, NULL), 0);
    IS(oar_lock_mode(lock), OAR_PR);
    opts.flags = OAR_NOQUEUE;
    IS(oar_lock_wait(space, "held", 4, OAR_EX, &opts, &other), OAR_E_BUSY);
    opts.flags = 0;
    opts.timeout_ms = 30;
    IS(oar_lock_wait(space, "held", 4, OAR_EX, &opts, &other), OAR_E_TIMED_OUT);
    opts.timeout_ms = 0;
    opts.flags = OAR_NOQUEUE | OAR_ALTPR;
    IS(oar_lock_wait(space, "held", 4, OAR_EX, &opts, &other), 0);
    IS(oar_lock_is_alternate(other), 1);
    IS(oar_lock_mode(other), OAR_PR);
    oar_lock_free(other);
    IS(oar_unlock_wait(lock), 0);
    oar_lock_free(lock);

    lock = take("held", OAR_EX, OAR_FRESH | OAR_VALBLK);
    second = oar_lock_token(lock);
    IS(second.hi > first.hi, 1);
    IS(oar_value_get(lock, &value), 0);
    IS(value.valid, 1);
    IS(memcmp(value.bytes, "hello\0", 6), 0);
    IS(oar_value_invalidate(lock), 0);
    IS(oar_unlock_wait(lock), 0);
    oar_lock_free(lock);
    lock = take("held", OAR_PR, OAR_VALBLK);
    IS(oar_value_get(lock, &value), 0);
    IS(value.valid, 0);
    value.size = 8;
    value.sequence = 77;
    IS(oar_value_get(lock, &value), 0);
    IS(value.sequence, 77);
    oar_lock_free(lock);
}

static void asynchronous(void)
{
    struct told told, other;
    oar_lock *lock, *second;
    oar_opts opts = OAR_OPTS_INIT;

    /* Granted at once, and told by dispatch all the same. */
    memset(&told, 0, sizeof told);
    memset(&other, 0, sizeof other);
    IS(readable(), 0);
    IS(oar_lock_start(space, "a", 1, OAR_EX, NULL, done, blocking, &told, &lock), 0);
    IS(told.done, 0);
    IS(oar_lock_mode(lock), OAR_E_IN_FLIGHT);
    IS(oar_convert_wait(lock, OAR_PR, NULL), OAR_E_IN_FLIGHT);
    IS(oar_unlock_wait(lock), OAR_E_IN_FLIGHT);
    until_done(&told, 1);
    IS(told.rc, 0);
    IS(oar_lock_mode(lock), OAR_EX);
    IS(readable(), 0);

    /* A second one waits, the first hears of it and converts down. */
    IS(oar_lock_start(space, "a", 1, OAR_PR, NULL, done, blocking, &other, &second), 0);
    while (told.blocking == 0) {
        IS(oar_dispatch(client, 10000) > 0, 1);
    }
    IS(told.wanted, OAR_PR);
    IS(other.done, 0);
    IS(oar_convert_start(lock, OAR_PR, NULL, done, &told), 0);
    until_done(&told, 2);
    until_done(&other, 1);
    IS(other.rc, 0);

    /* A conversion that cannot be granted is withdrawn; so is a request. */
    IS(oar_convert_start(lock, OAR_EX, NULL, done, &told), 0);
    IS(oar_cancel(lock), 0);
    until_done(&told, 3);
    IS(told.rc, OAR_E_CANCELLED);
    IS(oar_lock_mode(lock), OAR_PR);
    IS(oar_unlock_start(second, done, &other), 0);
    IS(oar_cancel(second), OAR_E_USAGE);
    until_done(&other, 2);
    oar_lock_free(second);
    IS(oar_lock_start(space, "a", 1, OAR_EX, NULL, done, NULL, &other, &second), 0);
    IS(oar_cancel(second), 0);
    until_done(&other, 3);
    IS(other.rc, OAR_E_CANCELLED);
    oar_lock_free(second);

    /* A refusal is told, and so is the end of a wait. */
    opts.timeout_ms = 30;
    IS(oar_lock_start(space, "a", 1, OAR_EX, &opts, done, NULL, &other, &second), 0);
    until_done(&other, 4);
    IS(other.rc, OAR_E_TIMED_OUT);
    oar_lock_free(second);
    opts.timeout_ms = 0;
    opts.flags = OAR_LOCAL;
    IS(oar_lock_start(space, "a", 1, OAR_EX, &opts, done, NULL, &other, &second), 0);
    until_done(&other, 5);
    IS(other.rc == OAR_E_BUSY || other.rc == OAR_E_NOT_OWNED, 1);
    oar_lock_free(second);

    /* What is freed is not told of. */
    IS(oar_lock_start(space, "a", 1, OAR_EX, NULL, done, NULL, &other, &second), 0);
    oar_lock_free(second);
    oar_lock_free(lock);
    IS(oar_lock_start(space, "a", 1, OAR_EX, NULL, done, NULL, &other, &second), 0);
    until_done(&other, 6);
    IS(other.rc, 0);
    oar_lock_free(second);
}

static void inside_callbacks(void)
{
    struct told told;
    oar_lock *lock, *other;
    int wanted;

    memset(&told, 0, sizeof told);
    told.again = 1;
    IS(oar_lock_start(space, "c", 1, OAR_PW, NULL, done, NULL, &told, &lock), 0);
    until_done(&told, 2);
    IS(told.rc, 0);
    IS(oar_lock_mode(lock), OAR_EX);
    oar_lock_free(lock);

    told.free_in_done = 1;
    IS(oar_lock_start(space, "c", 1, OAR_EX, NULL, done, blocking, &told, &lock), 0);
    until_done(&told, 3);
    told.free_in_done = 0;

    /* The holder lets go inside its blocking callback; whoever waits gets it. */
    told.free_in_blocking = 1;
    lock = take("c", OAR_EX, 0);
    IS(oar_watch(lock, blocking, lost, &told), 0);
    IS(oar_lock_start(space, "c", 1, OAR_EX, NULL, done, NULL, &told, &other), 0);
    until_done(&told, 4);
    IS(told.rc, 0);
    IS(told.blocking, 1);
    oar_lock_free(other);

    /* Whom to tell may change, and may be nobody. */
    memset(&told, 0, sizeof told);
    lock = take("c", OAR_EX, 0);
    IS(oar_watch(lock, blocking, lost, NULL), 0);
    IS(oar_watch(lock, NULL, NULL, NULL), 0);
    IS(oar_watch(lock, nothing_wanted, NULL, &told), 0);
    IS(oar_lock_start(space, "c", 1, OAR_PR, NULL, done, NULL, &told, &other), 0);
    while (told.blocking == 0) {
        IS(oar_dispatch(client, 10000) > 0, 1);
    }
    oar_lock_free(lock);
    until_done(&told, 1);
    oar_lock_free(other);
    IS(told.lost, 0);

    /* Who hears of losses only can still ask what is wanted, once for each news. */
    lock = take("c", OAR_EX, 0);
    IS(oar_watch(lock, NULL, lost, &told), 0);
    IS(oar_lock_start(space, "c", 1, OAR_PR, NULL, done, NULL, &told, &other), 0);
    for (wanted = OAR_NL; wanted == OAR_NL; wanted = oar_lock_wanted(lock)) {
        IS(oar_dispatch(client, 10) >= 0, 1);
    }
    IS(wanted, OAR_PR);
    IS(oar_lock_wanted(lock), OAR_NL);
    oar_lock_free(lock);
    until_done(&told, 2);
    oar_lock_free(other);
}

static void errno_and_signals(void)
{
    struct told told;
    oar_lock *lock;
    char path[64], line[256];
    FILE *status;
    int others = 0, i;

    memset(&told, 0, sizeof told);
    errno = ENOTTY;
    lock = take("e", OAR_EX, 0);
    IS(errno, ENOTTY);
    IS(oar_lock_wait(space, "e", 0, OAR_EX, NULL, &lock), OAR_E_USAGE);
    IS(oar_convert_start(lock, OAR_PR, NULL, done, &told), 0);
    until_done(&told, 1);
    IS(errno, ENOTTY);
    IS(oar_dispatch(client, 1), 0);
    IS(errno, ENOTTY);
    oar_lock_free(lock);
    IS(errno, ENOTTY);

    /* Whatever other thread there is, it takes no signals. */
    for (i = 1; i < 64; ++i) {
        unsigned long long blocked;
        snprintf(path, sizeof path, "/proc/self/task/%d/status", getpid() + i);
        status = fopen(path, "r");
        while (status != NULL && fgets(line, sizeof line, status) != NULL) {
            if (sscanf(line, "SigBlk: %llx", &blocked) == 1) {
                ++others;
                IS((blocked >> (SIGTERM - 1)) & 1, 1);
                IS((blocked >> (SIGCHLD - 1)) & 1, 1);
            }
        }
        if (status != NULL) {
            fclose(status);
        }
    }
    IS(others >= 1, 1);
}

int main(void)
{
    open_all();
    misuse();
    held();
    asynchronous();
    inside_callbacks();
    errno_and_signals();
    close_all();
    printf("all calls\n");
    return 0;
}
