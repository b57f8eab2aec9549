/* What programs for libdlm include, as far as the tests need it: for machines that do not have libdlm-dev. */
#ifndef TESTS_LIBDLM_H
#define TESTS_LIBDLM_H

#include <stdint.h>
#include <sys/types.h>

#define DLM_LVB_LEN 32
#define DLM_LOCKSPACE_LEN 64
#define DLM_RESNAME_MAXLEN 64

struct dlm_lksb {
    int sb_status;
    uint32_t sb_lkid;
    char sb_flags;
    char *sb_lvbptr;
};

#define DLM_SBF_DEMOTED 0x01
#define DLM_SBF_VALNOTVALID 0x02
#define DLM_SBF_ALTMODE 0x04

#define DLM_LSFL_NEWEXCL 0x00000008

#define LKF_NOQUEUE 0x00000001
#define LKF_CANCEL 0x00000002
#define LKF_CONVERT 0x00000004
#define LKF_VALBLK 0x00000008
#define LKF_QUECVT 0x00000010
#define LKF_IVVALBLK 0x00000020
#define LKF_CONVDEADLK 0x00000040
#define LKF_PERSISTENT 0x00000080
#define LKF_NODLCKWT 0x00000100
#define LKF_NODLCKBLK 0x00000200
#define LKF_EXPEDITE 0x00000400
#define LKF_NOQUEUEBAST 0x00000800
#define LKF_HEADQUE 0x00001000
#define LKF_NOORDER 0x00002000
#define LKF_ORPHAN 0x00004000
#define LKF_ALTPR 0x00008000
#define LKF_ALTCW 0x00010000
#define LKF_FORCEUNLOCK 0x00020000
#define LKF_TIMEOUT 0x00040000
#define LKF_WAIT 0x80000000

#define ECANCEL 0x10001
#define EUNLOCK 0x10002
#define EINPROG 0x10003

typedef void *dlm_lshandle_t;
typedef void dlm_called(void *);

int dlm_kernel_version(uint32_t *, uint32_t *, uint32_t *);
void dlm_library_version(uint32_t *, uint32_t *, uint32_t *);

int dlm_lock(uint32_t mode, struct dlm_lksb *, uint32_t flags, const void *name, unsigned int length, uint32_t parent,
    dlm_called *ast, void *arg, dlm_called *bast, void *range);
int dlm_ls_lock(dlm_lshandle_t, uint32_t mode, struct dlm_lksb *, uint32_t flags, const void *name, unsigned int length,
    uint32_t parent, dlm_called *ast, void *arg, dlm_called *bast, void *range);
int dlm_ls_lockx(dlm_lshandle_t, uint32_t mode, struct dlm_lksb *, uint32_t flags, const void *name, unsigned int length,
    uint32_t parent, dlm_called *ast, void *arg, dlm_called *bast, uint64_t *xid, uint64_t *timeout);
int dlm_lock_wait(uint32_t mode, struct dlm_lksb *, uint32_t flags, const void *name, unsigned int length,
    uint32_t parent, void *arg, dlm_called *bast, void *range);
int dlm_ls_lock_wait(dlm_lshandle_t, uint32_t mode, struct dlm_lksb *, uint32_t flags, const void *name,
    unsigned int length, uint32_t parent, void *arg, dlm_called *bast, void *range);
int dlm_unlock(uint32_t lkid, uint32_t flags, struct dlm_lksb *, void *arg);
int dlm_ls_unlock(dlm_lshandle_t, uint32_t lkid, uint32_t flags, struct dlm_lksb *, void *arg);
int dlm_unlock_wait(uint32_t lkid, uint32_t flags, struct dlm_lksb *);
int dlm_ls_unlock_wait(dlm_lshandle_t, uint32_t lkid, uint32_t flags, struct dlm_lksb *);
int dlm_ls_deadlock_cancel(dlm_lshandle_t, uint32_t lkid, uint32_t flags);
int dlm_ls_purge(dlm_lshandle_t, int nodeid, int pid);
int dlm_get_fd(void);
int dlm_ls_get_fd(dlm_lshandle_t);
int dlm_dispatch(int fd);
dlm_lshandle_t dlm_create_lockspace(const char *name, mode_t mode);
dlm_lshandle_t dlm_new_lockspace(const char *name, mode_t mode, uint32_t flags);
dlm_lshandle_t dlm_open_lockspace(const char *name);
int dlm_close_lockspace(dlm_lshandle_t);
int dlm_release_lockspace(const char *name, dlm_lshandle_t, int force);

#ifdef _REENTRANT
int lock_resource(const char *resource, int mode, int flags, int *lkid);
int unlock_resource(int lkid);
int dlm_pthread_init(void);
int dlm_ls_pthread_init(dlm_lshandle_t);
int dlm_pthread_cleanup(void);
#endif

#endif
