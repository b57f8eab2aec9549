/* Handles stay with the process that opened them: in a child each call says so, hangs nowhere and changes nothing. */
#include <pthread.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void done(void *arg, oar_lock *lock, int rc)
{
    (void)lock;
    (void)rc;
    ++*(int *)arg;
}

static volatile int enough;

/* Another thread may still call it when the lock is freed, so it has nothing of its caller's. */
static void ignored(void *arg, oar_lock *lock, int rc)
{
    (void)arg;
    (void)lock;
    (void)rc;
}

static void *works(void *arg)
{
    (void)arg;
    while (!enough) {
        oar_lock *lock = take("w", OAR_EX, 0), *asked;
        oar_lock_free(lock);
        IS(oar_lock_start(space, "v", 1, OAR_PR, NULL, ignored, NULL, NULL, &asked), 0);
        IS(oar_dispatch(client, 0) >= 0, 1);
        oar_lock_free(asked);
    }
    return NULL;
}

/* At the moment of a fork, threads that are not in the child may have locked anything. */
static void in_the_midst(void)
{
    pthread_t threads[2];
    oar_lock *lock, *held = take("u", OAR_PR, OAR_VALBLK);
    int i, status = 0;

    for (i = 0; i < 2; ++i) {
        IS(pthread_create(&threads[i], NULL, works, NULL), 0);
    }
    for (i = 0; i < 60; ++i) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            IS(oar_lock_wait(space, "w", 1, OAR_EX, NULL, &lock), OAR_E_FORKED);
            IS(oar_convert_wait(held, OAR_CR, NULL), OAR_E_FORKED);
            IS(oar_dispatch(client, -1), OAR_E_FORKED);
            oar_lock_free(held);
            oar_space_close(space);
            oar_close(client);
            _exit(0);
        }
        IS(child > 0, 1);
        IS(waitpid(child, &status, 0), child);
        IS(status, 0);
    }
    enough = 1;
    for (i = 0; i < 2; ++i) {
        IS(pthread_join(threads[i], NULL), 0);
    }
    oar_lock_free(held);
}

int main(void)
{
    oar_lock *lock, *pending, *other = NULL;
    oar_client *parent;
    int told = 0, status = 0;
    pid_t child;

    open_all();
    lock = take("f", OAR_EX, OAR_VALBLK);
    IS(oar_lock_start(space, "f", 1, OAR_PR, NULL, done, NULL, &told, &pending), 0);
    child = fork();
    if (child == 0) {
        oar_error error = OAR_ERROR_INIT;
        alarm(20);
        IS(oar_lock_mode(lock), OAR_E_FORKED);
        IS(oar_lock_lost(lock), OAR_E_FORKED);
        IS(oar_lock_token(lock).hi, 0);
        IS(oar_convert_wait(lock, OAR_PR, NULL), OAR_E_FORKED);
        IS(oar_unlock_wait(lock), OAR_E_FORKED);
        IS(oar_cancel(pending), OAR_E_FORKED);
        IS(oar_value_set(lock, "child", 5), OAR_E_FORKED);
        IS(oar_lock_wait(space, "g", 1, OAR_EX, NULL, &other), OAR_E_FORKED);
        IS(oar_lock_start(space, "g", 1, OAR_EX, NULL, done, NULL, &told, &other), OAR_E_FORKED);
        IS(oar_dispatch(client, -1), OAR_E_FORKED);
        IS(oar_fd(client), OAR_E_FORKED);
        IS(oar_errinfo(client, &error), OAR_E_FORKED);
        IS(oar_node(client) == NULL, 1);
        oar_lock_free(lock);
        oar_lock_free(pending);
        oar_space_close(space);
        oar_close(client);
        parent = client;
        /* It may have a session of its own, where the parent's locks are somebody else's. */
        open_all();
        {
            oar_opts opts = OAR_OPTS_INIT;
            opts.flags = OAR_NOQUEUE;
            IS(oar_lock_wait(space, "f", 1, OAR_EX, &opts, &other), OAR_E_BUSY);
        }
        other = take("g", OAR_EX, 0);
        oar_lock_free(other);
        close_all();
        IS(oar_dispatch(parent, 0), OAR_E_FORKED);
        /* The parent's handles are lost memory here, and no leak is looked for. */
        _exit(0);
    }
    IS(child > 0, 1);
    IS(waitpid(child, &status, 0), child);
    IS(status, 0);
    IS(oar_lock_mode(lock), OAR_EX);
    IS(oar_lock_lost(lock), 0);
    IS(told, 0);
    IS(oar_unlock_wait(lock), 0);
    while (told == 0) {
        IS(oar_dispatch(client, 20000) > 0, 1);
    }
    oar_lock_free(lock);
    oar_lock_free(pending);
    in_the_midst();
    close_all();
    printf("all forks\n");
    return 0;
}
