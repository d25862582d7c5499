; same.scm: what the real engine draws in GIMP is what `moji draw` wrote with the same seed, pixel for pixel.

(define image (new-image 100 100 RGB))
(define layer (car (plug-in-moji-draw RUN-NONINTERACTIVE image (active image) prompt "" "" 3 0 -1 ""
                                      remove "" "")))
(define drawn (car (file-png-load RUN-NONINTERACTIVE png-file png-file)))
(define width (car (gimp-image-width drawn)))

; A PNG with a mask has it in its alpha, and no colour where that is 0. GIMP applies its own mask here, since what
; gimp-drawable-get-pixel says of a mask's middle values is not what the mask does.
(define applied (car (gimp-layer-copy layer FALSE)))
(gimp-image-insert-layer image applied 0 0)
(if (>= (car (gimp-layer-get-mask applied)) 0)
    (gimp-layer-remove-mask applied MASK-APPLY))
(define (differs x y)
  (let* ((drawn-there (pixel (active drawn) x y))
         (wanted (if (= (length drawn-there) 4) drawn-there (append drawn-there '(255))))
         (found (pixel applied x y)))
    (if (= (cadddr wanted) 0)
        (not (= (cadddr found) 0))
        (not (equal? wanted found)))))

; Every pixel of a small picture, every seventh of a large one.
(define step (if (> width 100) 7 1))
(define wrong 0)
(define (look x y)
  (cond ((>= y width) wrong)
        ((>= x width) (look 0 (+ y step)))
        (else (if (differs x y) (set! wrong (+ wrong 1)))
              (look (+ x step) y))))

(check (string-append name "-size") (car (gimp-drawable-width layer)) width)
(check (string-append name "-pixels-as-moji-draw") (look 0 0) 0)
(check (string-append name "-mask-as-moji-draw") (>= (car (gimp-layer-get-mask layer)) 0)
       (= (car (gimp-drawable-has-alpha (active drawn))) TRUE))
(if save-to
    (file-png-save RUN-NONINTERACTIVE image layer save-to save-to 0 9 0 0 0 0 0))
(done)
