/* What is granted in which order: the scenarios of docs/scenarios.md by their numbers, as a program for libdlm sees them. */
#include "check.h"

#define STORY(number)              \
    static void story##number(void)

static struct lk a, b, c, d, e;

static void clean(struct lk *lk)
{
    memset(lk, 0, sizeof *lk);
}

/* ---- order ------------------------------------------------------------------------------------------ */

STORY(1)
{
    GET(a, "s", PR, 0);
    ASK(b, "s", EX, 0);
    ASK(c, "s", PR, 0);
    WAITS(b);
    WAITS(c);
    UNLOCK(a);
    COMES(b, 0);
    WAITS(c);
    UNLOCK(b);
    COMES(c, 0);
    UNLOCK(c);
}

STORY(2)
{
    GET(a, "s", EX, 0);
    GET(b, "s", NL, 0);
    ASK(c, "s", EX, 0);
    ASK(d, "s", NL, 0);
    WAITS(d);
    UNLOCK(a);
    COMES(c, 0);
    COMES(d, 0);
    UNLOCK(b);
    UNLOCK(c);
    UNLOCK(d);
}

STORY(3)
{
    GET(a, "s", EX, 0);
    ASK(b, "s", EX, 0);
    GET(c, "s", NL, LKF_EXPEDITE);
    FAILS(ask_for(&d, "s", CR, LKF_EXPEDITE), EINVAL);
    FAILS(ask_for(&d, "s", NL, LKF_EXPEDITE | LKF_NOQUEUE), EINVAL);
    FAILS(ask_for(&c, "s", NL, LKF_EXPEDITE | LKF_CONVERT), EINVAL);
    FAILS(ask_for(&d, "s", NL, LKF_EXPEDITE | LKF_QUECVT), EINVAL);
    settle();
    IS(d.asts, 0);
    UNLOCK(a);
    COMES(b, 0);
    UNLOCK(b);
    UNLOCK(c);
}

static void four_and_five(uint32_t flags)
{
    GET(a, "s", EX, 0);
    ASK(b, "s", PR, 0);
    ASK(c, "s", PR, 0);
    ASK(d, "s", EX, 0);
    ASK(e, "s", PR, flags);
    WAITS(e);
    UNLOCK(a);
    COMES(b, 0);
    COMES(c, 0);
    if (flags) {
        COMES(e, 0);
    } else {
        WAITS(e);
    }
    WAITS(d);
    UNLOCK(b);
    UNLOCK(c);
    if (flags) {
        UNLOCK(e);
    }
    COMES(d, 0);
    UNLOCK(d);
    if (!flags) {
        COMES(e, 0);
        UNLOCK(e);
    }
}

STORY(4)
{
    four_and_five(0);
}

STORY(5)
{
    four_and_five(LKF_NOORDER);
}

STORY(6)
{
    GET(a, "s", EX, 0);
    ASK(b, "s", EX, LKF_HEADQUE);
    ASK(c, "s", EX, LKF_HEADQUE);
    settle();
    UNLOCK(a);
    COMES(c, 0);
    WAITS(b);
    UNLOCK(c);
    COMES(b, 0);
    UNLOCK(b);
}

STORY(7)
{
    GET(a, "s", PR, 0);
    GET(b, "s", NL, 0);
    b.asts = 0;
    ASK(b, "s", EX, LKF_CONVERT);
    WAITS(b);
    ENDS(d, "s", PR, LKF_NOQUEUE, EAGAIN);
    ASK(c, "s", PR, 0);
    WAITS(c);
    UNLOCK(a);
    COMES(b, 0);
    UNLOCK(b);
    COMES(c, 0);
    UNLOCK(c);
}

static void eight(uint32_t flags)
{
    GET(a, "s", PR, 0);
    GET(b, "s", NL, 0);
    ASK(d, "s", EX, 0);
    WAITS(d);
    CONVERT(b, PR, flags);
    UNLOCK(a);
    UNLOCK(b);
    COMES(d, 0);
    UNLOCK(d);
}

STORY(8)
{
    eight(0);
    clean(&d);
    eight(LKF_QUECVT);
}

STORY(9)
{
    GET(a, "s", PR, 0);
    GET(b, "s", NL, 0);
    GET(c, "s", NL, 0);
    GET(d, "s", NL, 0);
    d.asts = c.asts = 0;
    ASK(d, "s", EX, LKF_CONVERT);
    WAITS(d);
    CONVERT(b, PR, 0);
    ASK(c, "s", PR, LKF_CONVERT | LKF_QUECVT);
    WAITS(c);
    UNLOCK(a);
    UNLOCK(b);
    COMES(d, 0);
    WAITS(c);
    UNLOCK(d);
    COMES(c, 0);
    UNLOCK(c);
}

STORY(10)
{
    GET(a, "s", PR, 0);
    FAILS(ask_for(&a, "s", NL, LKF_CONVERT | LKF_QUECVT), EINVAL);
    FAILS(ask_for(&a, "s", PR, LKF_CONVERT | LKF_QUECVT), EINVAL);
    FAILS(ask_for(&b, "s", PR, LKF_QUECVT), EINVAL);
    CONVERT(a, CW, LKF_QUECVT);
    CONVERT(a, PR, LKF_QUECVT);
    UNLOCK(a);
}

STORY(11)
{
    GET(a, "s", PR, 0);
    GET(b, "s", PR, 0);
    GET(d, "s", NL, 0);
    b.asts = d.asts = 0;
    ASK(b, "s", EX, LKF_CONVERT);
    ASK(d, "s", PR, LKF_CONVERT | LKF_QUECVT);
    WAITS(d);
    CONVERT(a, NL, 0);
    COMES(b, 0);
    WAITS(d);
    UNLOCK(b);
    COMES(d, 0);
    UNLOCK(d);
    UNLOCK(a);
}

STORY(12)
{
    GET(a, "s", EX, 0);
    GET(b, "s", NL, 0);
    GET(c, "s", NL, 0);
    b.asts = c.asts = 0;
    ASK(b, "s", PR, LKF_CONVERT);
    ASK(c, "s", EX, LKF_CONVERT);
    ASK(d, "s", PR, 0);
    WAITS(d);
    CONVERT(a, PR, 0);
    COMES(b, 0);
    WAITS(c);
    WAITS(d);
    UNLOCK(a);
    UNLOCK(b);
    COMES(c, 0);
    UNLOCK(c);
    COMES(d, 0);
    UNLOCK(d);
}

STORY(13)
{
    GET(a, "s", PR, 0);
    ASK(b, "s", EX, 0);
    settle();
    IS(a.basts, 1);
    CONVERT(a, PR, 0);
    UNLOCK(a);
    COMES(b, 0);
    UNLOCK(b);
}

/* ---- tries, cancel, unlock -------------------------------------------------------------------------- */

STORY(14)
{
    GET(a, "s", EX, 0);
    ENDS(b, "s", EX, LKF_NOQUEUE, EAGAIN);
    TRUE(b.sb.sb_lkid != 0);
    FAILS(dlm_ls_unlock(ls, b.sb.sb_lkid, 0, &b.sb, NULL), ENOENT);
    UNLOCK(a);
}

STORY(15)
{
    GET(a, "s", PR, 0);
    GET(b, "s", PR, 0);
    ENDS(b, "s", EX, LKF_CONVERT | LKF_NOQUEUE, EAGAIN);
    /* Still held in the old mode. */
    ENDS(c, "s", EX, LKF_NOQUEUE, EAGAIN);
    UNLOCK(a);
    ENDS(c, "s", CW, LKF_NOQUEUE, EAGAIN);
    CONVERT(b, EX, LKF_NOQUEUE);
    UNLOCK(b);
}

STORY(16)
{
    GET(a, "s", PR, 0);
    ENDS(b, "s", EX, LKF_NOQUEUE, EAGAIN);
    settle();
    IS(a.basts, 0);
    ENDS(b, "s", EX, LKF_NOQUEUE | LKF_NOQUEUEBAST, EAGAIN);
    UNTIL(a.basts, 1);
    UNLOCK(a);
}

STORY(17)
{
    GET(a, "s", PR, 0);
    ASK(b, "s", EX, 0);
    ASK(c, "s", PR, 0);
    WAITS(c);
    IS(dlm_ls_unlock(ls, b.sb.sb_lkid, LKF_CANCEL, &b.sb, NULL), 0);
    COMES(b, ECANCEL);
    COMES(c, 0);
    FAILS(dlm_ls_unlock(ls, b.sb.sb_lkid, 0, &b.sb, NULL), ENOENT);
    UNLOCK(a);
    UNLOCK(c);
}

STORY(18)
{
    GET(a, "s", PR, 0);
    GET(b, "s", PR, 0);
    b.asts = 0;
    ASK(b, "s", EX, LKF_CONVERT);
    WAITS(b);
    IS(dlm_ls_unlock(ls, b.sb.sb_lkid, LKF_CANCEL, &b.sb, NULL), 0);
    COMES(b, ECANCEL);
    UNLOCK(a);
    /* PR still: another reader fits, a writer does not. */
    GET(a, "s", PR, LKF_NOQUEUE);
    ENDS(c, "s", CW, LKF_NOQUEUE, EAGAIN);
    UNLOCK(a);
    UNLOCK(b);
}

STORY(19)
{
    int asts;
    GET(a, "s", EX, 0);
    asts = a.asts;
    IS(dlm_ls_unlock(ls, a.sb.sb_lkid, LKF_CANCEL, &a.sb, NULL), 0);
    settle();
    IS(a.asts, asts);
    IS(a.sb.sb_status, 0);
    IS(dlm_ls_unlock_wait(ls, a.sb.sb_lkid, LKF_CANCEL, &a.sb), 0);
    UNLOCK(a);
}

STORY(20)
{
    int i, granted = 0;
    for (i = 0; i < 40; i++) {
        clean(&a);
        clean(&b);
        GET(a, "s", EX, 0);
        ASK(b, "s", EX, 0);
        IS(dlm_ls_unlock(ls, a.sb.sb_lkid, 0, &a.sb, NULL), 0);
        if (i % 3) {
            wait_a_little(i % 3);
        }
        IS(dlm_ls_unlock(ls, b.sb.sb_lkid, LKF_CANCEL, &b.sb, NULL), 0);
        UNTIL(b.asts, 1);
        UNTIL(a.asts, 2);
        settle();
        IS(b.asts, 1);
        if (b.sb.sb_status == 0) {
            granted++;
            UNLOCK(b);
        } else {
            IS(b.sb.sb_status, ECANCEL);
        }
    }
    (void)granted;
}

STORY(21)
{
    GET(a, "s", PR, 0);
    ASK(b, "s", EX, 0);
    WAITS(b);
    UNLOCK_WITH(b, 0, EUNLOCK);
    ASK(c, "s", EX, 0);
    UNLOCK_WITH(c, LKF_FORCEUNLOCK, EUNLOCK);
    settle();
    IS(b.asts, 1);
    IS(c.asts, 1);
    /* A convert is withdrawn, and the lock is gone. */
    GET(d, "s", PR, 0);
    d.asts = 0;
    ASK(d, "s", EX, LKF_CONVERT);
    UNLOCK_WITH(d, 0, EUNLOCK);
    settle();
    IS(d.asts, 1);
    UNLOCK(a);
    GET(e, "s", EX, LKF_NOQUEUE);
    UNLOCK(e);
}

STORY(22)
{
    char longest[65];
    memset(longest, 'x', sizeof longest);
    GET(a, "s", PR, 0);
    GET(b, "s", PR, 0);
    ASK(b, "s", EX, LKF_CONVERT);
    FAILS(ask_for(&b, "s", PR, LKF_CONVERT), EBUSY);
    IS(dlm_ls_unlock(ls, b.sb.sb_lkid, 0, &b.sb, NULL), 0);
    FAILS(dlm_ls_unlock(ls, b.sb.sb_lkid, 0, &b.sb, NULL), ENOENT);
    FAILS(ask_for(&b, "s", PR, LKF_CONVERT), ENOENT);
    UNTIL(b.asts, 2);
    FAILS(dlm_ls_unlock(ls, b.sb.sb_lkid, 0, &b.sb, NULL), ENOENT);
    UNLOCK(a);
    FAILS(ask_for(&c, "s", PR, LKF_CONVERT), EINVAL);
    FAILS(ask_for(&c, "s", PR, LKF_CANCEL), EINVAL);
    FAILS(ask_for(&c, "s", 6, 0), EINVAL);
    FAILS(dlm_ls_lock(ls, PR, &c.sb, 0, longest, 65, 0, on_ast, &c, NULL, NULL), EINVAL);
    IS(dlm_ls_lock(ls, PR, &c.sb, 0, longest, 64, 0, on_ast, &c, NULL, NULL), 0);
    UNTIL(c.asts, 1);
    UNLOCK(c);
    c.sb.sb_lvbptr = NULL;
    FAILS(dlm_ls_lock(ls, PR, &c.sb, LKF_VALBLK, "s", 1, 0, on_ast, &c, NULL, NULL), EINVAL);
    settle();
    IS(c.asts, 2);
}

STORY(23)
{
    uint32_t before;
    GET(a, "s", EX, 0);
    before = a.sb.sb_lkid;
    TRUE(before > 0 && before < 0x80000000u);
    UNLOCK(a);
    GET(a, "s", EX, 0);
    TRUE(a.sb.sb_lkid != before);
    UNLOCK(a);
}

static uint32_t id_in_ast;

static void look_at_id(void *arg)
{
    id_in_ast = ((struct lk *)arg)->sb.sb_lkid;
    on_ast(arg);
}

STORY(24)
{
    int i;
    for (i = 0; i < 50; i++) {
        a.sb.sb_lkid = 0;
        IS(dlm_ls_lock(ls, NL, &a.sb, 0, "s", 1, 0, look_at_id, &a, NULL, NULL), 0);
        TRUE(a.sb.sb_lkid != 0);
        IS(a.sb.sb_status, EINPROG);
        UNTIL(a.asts, 1);
        IS(id_in_ast, a.sb.sb_lkid);
        UNLOCK(a);
        a.asts = 0;
    }
}

STORY(25)
{
    uint64_t hundredths = 20;
    GET(a, "s", PR, 0);
    IS(dlm_ls_lockx(ls, EX, &b.sb, LKF_TIMEOUT, "s", 1, 0, on_ast, &b, NULL, NULL, &hundredths), 0);
    COMES(b, ETIMEDOUT);
    FAILS(dlm_ls_unlock(ls, b.sb.sb_lkid, 0, &b.sb, NULL), ENOENT);
    GET(b, "s", PR, 0);
    b.asts = 0;
    IS(dlm_ls_lockx(ls, EX, &b.sb, LKF_TIMEOUT | LKF_CONVERT, "s", 1, 0, on_ast, &b, NULL, NULL, &hundredths), 0);
    COMES(b, ETIMEDOUT);
    GET(c, "s", PR, 0);
    UNLOCK(a);
    UNLOCK(b);
    UNLOCK(c);
}

/* ---- value block ------------------------------------------------------------------------------------ */

#define PUT(lk, text)                                     \
    do {                                                  \
        memset((lk).block, 0, sizeof (lk).block);         \
        memcpy((lk).block, text, strlen(text));           \
    } while (0)
#define HAS(lk, text) IS(strncmp((lk).block, text, DLM_LVB_LEN), 0)

/* Writes a text from EX, and is at NL then. */
static void write_text(struct lk *lk, const char *name, const char *text)
{
    GET(*lk, name, EX, LKF_VALBLK);
    PUT(*lk, text);
    CONVERT(*lk, NL, LKF_VALBLK);
}

STORY(26)
{
    static const int ways[][2] = {{NL, NL}, {NL, CR}, {NL, EX}, {CR, CR}, {CW, CW}, {PR, PR}, {CR, PR}, {PR, PW},
        {PW, EX}, {CW, PR}};
    unsigned i;
    write_text(&a, "s", "text");
    GET(b, "s", PR, LKF_VALBLK);
    HAS(b, "text");
    UNLOCK(b);
    for (i = 0; i < sizeof ways / sizeof *ways; i++) {
        GET(b, "s", ways[i][0], 0);
        PUT(b, "mine");
        CONVERT(b, ways[i][1], LKF_VALBLK);
        HAS(b, "text");
        UNLOCK(b);
    }
    UNLOCK(a);
}

static void is_written(const char *text)
{
    GET(e, "s", PR, LKF_VALBLK);
    HAS(e, text);
    UNLOCK(e);
}

STORY(27)
{
    static const int ways[][2] = {{EX, NL}, {EX, CR}, {EX, PR}, {EX, EX}, {PW, NL}, {PW, CR}, {PW, PR}, {PW, PW}};
    char text[16];
    unsigned i;
    GET(a, "s", NL, 0);
    for (i = 0; i < sizeof ways / sizeof *ways; i++) {
        snprintf(text, sizeof text, "way %u", i);
        GET(b, "s", ways[i][0], 0);
        PUT(b, text);
        CONVERT(b, ways[i][1], LKF_VALBLK);
        if (ways[i][0] == ways[i][1]) {
            CONVERT(b, NL, 0);
        }
        is_written(text);
        UNLOCK(b);
    }
    for (i = PW; i <= EX; i++) {
        snprintf(text, sizeof text, "end %u", i);
        GET(b, "s", i, 0);
        PUT(b, text);
        UNLOCK_WITH(b, LKF_VALBLK, EUNLOCK);
        is_written(text);
    }
    UNLOCK(a);
}

STORY(28)
{
    static const int ways[][2] = {{PR, NL}, {PR, CR}, {CW, CR}, {CR, NL}, {PR, CW}};
    unsigned i;
    write_text(&a, "s", "text");
    for (i = 0; i < sizeof ways / sizeof *ways; i++) {
        GET(b, "s", ways[i][0], 0);
        PUT(b, "mine");
        CONVERT(b, ways[i][1], LKF_VALBLK);
        HAS(b, "mine");
        UNLOCK_WITH(b, LKF_VALBLK, EUNLOCK);
        is_written("text");
    }
    UNLOCK(a);
}

STORY(29)
{
    write_text(&a, "s", "text");
    CONVERT(a, EX, 0);
    PUT(a, "mine");
    CONVERT(a, NL, 0);
    is_written("text");
    IS(e.sb.sb_flags, 0);
    UNLOCK(a);
}

STORY(30)
{
    int i;
    memset(a.block, 'x', sizeof a.block);
    GET(a, "fresh", PR, LKF_VALBLK);
    for (i = 0; i < DLM_LVB_LEN; i++) {
        IS(a.block[i], 0);
    }
    IS(a.block[DLM_LVB_LEN], 'x');
    IS(a.sb.sb_flags, 0);
    UNLOCK(a);
}

STORY(31)
{
    write_text(&a, "s", "text");
    GET(b, "s", PR, 0);
    CONVERT(b, NL, LKF_IVVALBLK);
    is_written("text");
    CONVERT(b, EX, 0);
    PUT(b, "mine");
    CONVERT(b, NL, LKF_VALBLK | LKF_IVVALBLK);
    GET(e, "s", PR, LKF_VALBLK);
    HAS(e, "text");
    IS(e.sb.sb_flags, DLM_SBF_VALNOTVALID);
    UNLOCK(e);
    UNLOCK(a);
    UNLOCK(b);
}

STORY(32)
{
    write_text(&a, "s", "text");
    GET(b, "s", PW, 0);
    UNLOCK_WITH(b, LKF_IVVALBLK, EUNLOCK);
    GET(b, "s", PR, LKF_VALBLK);
    IS(b.sb.sb_flags, DLM_SBF_VALNOTVALID);
    CONVERT(b, CR, LKF_VALBLK);
    IS(b.sb.sb_flags, DLM_SBF_VALNOTVALID);
    CONVERT(b, NL, 0);
    IS(b.sb.sb_flags, 0);
    CONVERT(b, EX, LKF_VALBLK);
    IS(b.sb.sb_flags, DLM_SBF_VALNOTVALID);
    PUT(b, "new");
    CONVERT(b, NL, LKF_VALBLK);
    IS(b.sb.sb_flags, 0);
    is_written("new");
    IS(e.sb.sb_flags, 0);
    UNLOCK(a);
    UNLOCK(b);
}

STORY(33)
{
    write_text(&a, "s", "text");
    is_written("text");
    UNLOCK(a);
}

STORY(34)
{
    write_text(&a, "s", "old");
    write_text(&b, "s", "new");
    CONVERT(a, EX, LKF_VALBLK);
    HAS(a, "new");
    UNLOCK(a);
    UNLOCK(b);
}

/* ---- deadlock --------------------------------------------------------------------------------------- */

STORY(50)
{
    GET(a, "s", PR, 0);
    GET(b, "s", PR, 0);
    a.asts = b.asts = 0;
    ASK(a, "s", EX, LKF_CONVERT);
    WAITS(a);
    ASK(b, "s", EX, LKF_CONVERT);
    COMES(b, EDEADLK);
    WAITS(a);
    UNLOCK(b);
    COMES(a, 0);
    UNLOCK(a);
}

STORY(51)
{
    GET(a, "s", PR, 0);
    GET(b, "s", PR, 0);
    a.asts = b.asts = 0;
    ASK(a, "s", EX, LKF_CONVERT);
    WAITS(a);
    FAILS(ask_for(&b, "s", EX, LKF_CONVDEADLK), EINVAL);
    FAILS(ask_for(&b, "s", EX, LKF_CONVERT | LKF_CONVDEADLK | LKF_NOQUEUE), EINVAL);
    ASK(b, "s", EX, LKF_CONVERT | LKF_CONVDEADLK);
    COMES(a, 0);
    IS(a.sb.sb_flags, 0);
    WAITS(b);
    UNLOCK(a);
    COMES(b, 0);
    IS(b.sb.sb_flags, DLM_SBF_DEMOTED);
    ENDS(c, "s", CR, LKF_NOQUEUE, EAGAIN);
    UNLOCK(b);
}

STORY(52)
{
    GET(a, "s", PR, 0);
    GET(b, "s", PR, 0);
    a.asts = b.asts = 0;
    ASK(a, "s", EX, LKF_CONVERT);
    UNTIL(b.basts, 1);
    ASK(b, "s", EX, LKF_CONVERT | LKF_NODLCKWT);
    WAITS(b);
    IS(dlm_ls_unlock(ls, b.sb.sb_lkid, LKF_CANCEL, &b.sb, NULL), 0);
    COMES(b, ECANCEL);
    UNLOCK(b);
    COMES(a, 0);
    UNLOCK(a);
}

STORY(53)
{
    GET(d, "s", PR, 0);
    GET(b, "s", PR, 0);
    GET(a, "s", NL, 0);
    a.asts = b.asts = 0;
    ASK(a, "s", EX, LKF_CONVERT);
    WAITS(a);
    ASK(b, "s", EX, LKF_CONVERT);
    COMES(b, EDEADLK);
    UNLOCK(b);
    UNLOCK(d);
    COMES(a, 0);
    UNLOCK(a);
}

STORY(54)
{
    GET(a, "s", PR, 0);
    GET(b, "s", PR, 0);
    a.asts = 0;
    ASK(a, "s", EX, LKF_CONVERT);
    WAITS(a);
    ENDS(b, "s", EX, LKF_CONVERT | LKF_NOQUEUE, EAGAIN);
    UNLOCK(b);
    COMES(a, 0);
    UNLOCK(a);
}

/* ---- blocking notices, second choices --------------------------------------------------------------- */

STORY(57)
{
    GET(a, "s", PR, 0);
    ASK(b, "s", EX, 0);
    UNTIL(a.basts, 1);
    ASK(c, "s", EX, 0);
    settle();
    IS(a.basts, 1);
    /* Granted anew, it is told anew. */
    CONVERT(a, PR, 0);
    settle();
    IS(a.basts, 2);
    UNLOCK(a);
    COMES(b, 0);
    UNLOCK(b);
    COMES(c, 0);
    UNLOCK(c);
}

STORY(58)
{
    GET(a, "s", PR, 0);
    ASK(b, "s", PW, 0);
    UNTIL(a.basts, 1);
    ASK(c, "s", EX, 0);
    UNTIL(a.basts, 2);
    UNLOCK(a);
    COMES(b, 0);
    UNLOCK(b);
    COMES(c, 0);
    UNLOCK(c);
}

STORY(59)
{
    GET(a, "s", PR, 0);
    ASK(b, "s", CW, 0);
    UNTIL(a.basts, 1);
    UNLOCK(a);
    COMES(b, 0);
    ASK(c, "s", PR, 0);
    UNTIL(b.basts, 1);
    UNLOCK(b);
    COMES(c, 0);
    UNLOCK(c);
}

/* Waits until there is something to dispatch, and dispatches nothing. */
static void let_it_come(void)
{
    struct pollfd fd;
    fd.fd = dlm_ls_get_fd(ls);
    fd.events = POLLIN;
    IS(poll(&fd, 1, 20000), 1);
}

static void sixty(uint32_t to, int basts)
{
    GET(a, "s", PR, 0);
    ASK(b, "s", PW, 0);
    let_it_come();
    /* The notice is there, and nobody has heard it yet. */
    IS(ask_for(&a, "s", to, LKF_CONVERT), 0);
    wait_a_little(100);
    IS(a.basts, 0);
    UNTIL(a.asts, 2);
    settle();
    IS(a.basts, basts);
    if (to == CR) {
        COMES(b, 0);
    }
    UNLOCK(a);
    if (to != CR) {
        COMES(b, 0);
    }
    UNLOCK(b);
}

STORY(60)
{
    sixty(CR, 0);
    clean(&a);
    clean(&b);
    /* Once for the notice that was there, once because the mode was granted anew. */
    sixty(PR, 2);
}

STORY(61)
{
    GET(a, "s", PR, 0);
    IS(dlm_ls_lock(ls, PR, &a.sb, LKF_CONVERT, "s", 1, 0, on_ast, &a, NULL, NULL), 0);
    UNTIL(a.asts, 2);
    ASK(b, "s", EX, 0);
    WAITS(b);
    IS(a.basts, 0);
    UNLOCK(a);
    COMES(b, 0);
    UNLOCK(b);
}

STORY(62)
{
    int i;
    for (i = 0; i < 20; i++) {
        clean(&a);
        clean(&b);
        ASK(a, "s", EX, 0);
        ASK(b, "s", EX, 0);
        UNTIL(a.basts, 1);
        IS(a.asts, 1);
        TRUE(a.ast_turn < a.bast_turn);
        UNLOCK(a);
        COMES(b, 0);
        UNLOCK(b);
    }
}

STORY(63)
{
    GET(a, "s", PR, 0);
    GET(b, "s", CW, LKF_ALTPR);
    IS(b.sb.sb_flags, DLM_SBF_ALTMODE);
    GET(c, "s", PR, LKF_NOQUEUE);
    IS(c.sb.sb_flags, 0);
    UNLOCK(a);
    UNLOCK(b);
    UNLOCK(c);
    GET(a, "s", CW, 0);
    GET(b, "s", PR, LKF_ALTCW);
    IS(b.sb.sb_flags, DLM_SBF_ALTMODE);
    UNLOCK(b);
    CONVERT(a, EX, 0);
    clean(&b);
    ASK(b, "s", CW, LKF_ALTPR);
    WAITS(b);
    CONVERT(a, PR, 0);
    COMES(b, 0);
    IS(b.sb.sb_flags, DLM_SBF_ALTMODE);
    UNLOCK(a);
    UNLOCK(b);
}

static int inside;

static void unlocks_in_bast(void *arg)
{
    struct lk *lk = (struct lk *)arg;
    lk->basts++;
    IS(dlm_ls_unlock(ls, lk->sb.sb_lkid, 0, &lk->sb, lk), 0);
}

static void converts_in_ast(void *arg)
{
    struct lk *lk = (struct lk *)arg;
    lk->asts++;
    if (lk->sb.sb_status == 0 && inside++ == 0) {
        IS(dlm_ls_lock(ls, EX, &lk->sb, LKF_CONVERT, "s", 1, 0, converts_in_ast, lk, unlocks_in_bast, NULL), 0);
    }
}

STORY(64)
{
    IS(dlm_ls_lock(ls, PR, &a.sb, 0, "s", 1, 0, converts_in_ast, &a, unlocks_in_bast, NULL), 0);
    UNTIL(a.asts, 2);
    ASK(b, "s", EX, 0);
    COMES(b, 0);
    UNTIL(a.asts, 3);
    IS(a.sb.sb_status, EUNLOCK);
    IS(a.basts, 1);
    UNLOCK(b);
}

STORY(67)
{
    dlm_lshandle_t first = ls, other = make("other");
    GET(a, "s", EX, 0);
    ls = other;
    GET(b, "s", EX, LKF_NOQUEUE);
    UNLOCK(b);
    ls = first;
    UNLOCK(a);
    IS(dlm_release_lockspace("other", other, 0), 0);
}

/* Completions come in the order in which they happened, and names of any bytes are told apart by their length. */
STORY(100)
{
    static const char zeros[2] = {0, 0};
    GET(a, "s", EX, 0);
    ASK(b, "s", PR, 0);
    ASK(c, "s", PR, 0);
    ASK(d, "s", PR, 0);
    settle();
    UNLOCK(a);
    COMES(d, 0);
    TRUE(b.ast_turn < c.ast_turn && c.ast_turn < d.ast_turn);
    UNLOCK(b);
    UNLOCK(c);
    UNLOCK(d);
    IS(dlm_ls_lock(ls, EX, &a.sb, LKF_NOQUEUE, zeros, 1, 0, on_ast, &a, NULL, NULL), 0);
    IS(dlm_ls_lock(ls, EX, &b.sb, LKF_NOQUEUE, zeros, 2, 0, on_ast, &b, NULL, NULL), 0);
    a.asts = b.asts = 0;
    COMES(a, 0);
    COMES(b, 0);
    UNLOCK(a);
    UNLOCK(b);
}

struct story {
    const char *name;
    void (*run)(void);
};

#define ROW(number) {"scenario " #number, story##number}

static const struct story stories[] = {ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6), ROW(7), ROW(8), ROW(9), ROW(10),
    ROW(11), ROW(12), ROW(13), ROW(14), ROW(15), ROW(16), ROW(17), ROW(18), ROW(19), ROW(20), ROW(21), ROW(22), ROW(23),
    ROW(24), ROW(25), ROW(26), ROW(27), ROW(28), ROW(29), ROW(30), ROW(31), ROW(32), ROW(33), ROW(34), ROW(50), ROW(51),
    ROW(52), ROW(53), ROW(54), ROW(57), ROW(58), ROW(59), ROW(60), ROW(61), ROW(62), ROW(63), ROW(64), ROW(67), ROW(100)};

int main(int argc, char **argv)
{
    unsigned i, count = 0;
    ls = make("scenarios");
    for (i = 0; i < sizeof stories / sizeof *stories; i++) {
        if (argc > 1 && strcmp(argv[1], stories[i].name + strlen("scenario ")) != 0) {
            continue;
        }
        doing = stories[i].name;
        clean(&a), clean(&b), clean(&c), clean(&d), clean(&e);
        stories[i].run();
        settle();
        count++;
    }
    IS(readable(ls), 0);
    errno = 0;
    IS(dlm_release_lockspace("scenarios", ls, 0), 0);
    IS(errno, 0);
    printf("%u scenarios\n", count);
    return 0;
}
